"""The application of one upstream of the proxy, built from its settings, and closed again."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from crossmount._dataclass import dataclass
from crossmount.discovery import EventFeed
from crossmount.fleet import Patience
from crossmount.proxy.app import App
from crossmount.proxy.auth.callers import Agent, Agents, Authenticator
from crossmount.proxy.auth.client_mode import ClientAuthenticator
from crossmount.proxy.auth.own_names import OwnNames
from crossmount.proxy.auth.permissions import Permissions
from crossmount.proxy.auth.service_mode import ServiceAuthenticator
from crossmount.proxy.auth.tokens import TokenBroker
from crossmount.proxy.event_receiver import EventReceiver
from crossmount.proxy.files import check_credentials, stored_credentials
from crossmount.proxy.http.upstream import Upstream
from crossmount.proxy.ledger import PushLedger
from crossmount.proxy.own_endpoints import OwnEndpoints
from crossmount.proxy.recorder import ProxyRecorder
from crossmount.proxy.reload import Apply, Live, Prepare
from crossmount.proxy.settings import ProxySettings, UpstreamSettings
from crossmount.proxy.shared import Shared
from crossmount.proxy.telemetry import Metrics
from crossmount.proxy.uploads.core import Core
from crossmount.proxy.uploads.mounting import CallerMounter
from crossmount.proxy.uploads.sessions import ClientSessions
from crossmount.proxy.uploads.source_privacy import SourcePrivacy
from crossmount.proxy.uploads.spool import SpoolFolder
from crossmount.proxy.uploads.turns import ProxyTurns
from crossmount.proxy.uploads.wider_tokens import WiderTokens
from crossmount.registry.auth.challenge import Bearer, choose
from crossmount.registry.http import transport as http
from crossmount.registry.http.errors import translated
from crossmount.registry.http.location import Origin

_SWEEP_SECONDS = 30.0
_CANCEL_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Assembled:
    """The application of one upstream.

    Attributes:
        app: the application.
        reloads: reload the upstream's own files.
    """

    app: App
    reloads: tuple[Prepare, ...] = ()


@asynccontextmanager
async def assembled(
    upstream: UpstreamSettings, shared: Shared, *, is_first: bool, is_only: bool
) -> AsyncIterator[Assembled]:
    """Build the application of one upstream, and close its parts when the block ends.

    Args:
        upstream: the upstream.
        shared: what all upstreams share.
        is_first: whether requests that name no upstream are for this one.
        is_only: whether there is no other.

    Raises:
        InvalidInputError: a setting is invalid.
    """
    settings, guarded = shared.settings, shared.index
    base, registry, options = upstream.url, upstream.registry, upstream.options
    metrics = Metrics(upstream.name, unserved=lambda: guarded.unserved if is_first else 0)
    metrics.spool_limit.set(0 if settings.spool is None else settings.limits.spool_bytes)
    patience = Patience(limit=settings.wait)
    recorder = ProxyRecorder(guarded, metrics, ledger=PushLedger(guarded, waits_for=patience.waits_for))
    permissions = Permissions(shared.policy, upstream=upstream.name, allow_sources=upstream.allow_sources)
    async with AsyncExitStack() as stack:
        tracing = shared.tracing
        wrap = None if tracing is None else tracing.wrapped
        client = await stack.enter_async_context(http.make_client(options, registry=Origin.of(base), wrap=wrap))
        agents = Agents(registry, options=options, index=guarded, connections=client)
        stack.push_async_callback(agents.aclose)
        await stack.enter_async_context(recorder.running())
        reloads: list[Prepare] = []
        authenticator: Authenticator
        if settings.auth == "service":
            agent = Live(lambda: _service_agent(agents, upstream))

            def prepare_agent() -> Apply:
                check_credentials(upstream)
                return agent.prepare()

            reloads.append(prepare_agent)
            names = OwnNames.of(
                settings.host, settings.callers_url(), any_host=not shared.checks.value.callers.permits_everyone
            )
            authenticator = ServiceAuthenticator(agent, shared.checks, names=names)
        else:
            authenticator = _client_authenticator(
                upstream, settings, agents, client, is_first=is_first, is_only=is_only
            )
        server = Upstream(
            base,
            client,
            rewrite_challenges=authenticator.rewritten_challenges,
            observe_seconds=metrics.upstream_seconds.observe,
            own_credentials=settings.auth == "service",
            keep_cookies=is_first,
            commit_timeout=options.commit_timeout,
        )
        mounter = CallerMounter(
            guarded,
            permissions=permissions,
            recorder=recorder,
            metrics=metrics,
            upstream=server,
            privacy=SourcePrivacy(round_trip=lambda: server.round_trip),
        )
        stack.push_async_callback(mounter.aclose)
        turns = ProxyTurns(
            shared.fleet,
            mounter,
            recorder,
            patience=patience,
            hold=settings.hold,
            uploads=settings.limits.uploads,
        )
        stack.push_async_callback(turns.aclose)
        core = Core(
            registry=registry,
            upstream=server,
            index=guarded,
            mounter=mounter,
            wider_tokens=WiderTokens(mounter.privacy, permissions),
            turns=turns,
            recorder=recorder,
            permissions=permissions,
            sessions=ClientSessions(),
            metrics=metrics,
            spool=None
            if settings.spool is None
            else SpoolFolder(settings.spool, limit=settings.limits.spool_bytes),
            manifest_limit=settings.limits.manifest_bytes,
        )
        events = None
        if shared.secrets is not None:
            feed = await stack.enter_async_context(EventFeed(registry, guarded, options=options))
            events = EventReceiver(feed, shared.secrets)
        sweep = asyncio.create_task(_sweep(core))
        stack.push_async_callback(_close_sessions, core, sweep)
        metrics.sessions.set_function(lambda: len(core.sessions))
        metrics.spool_bytes.set_function(lambda: 0 if core.spool is None else core.spool.taken)
        shared.exposition.add(metrics)
        endpoints = OwnEndpoints(
            core,
            authenticator,
            events,
            probes=shared.probes,
            exposition=shared.exposition if settings.metrics_listen is None else None,
            page=None if settings.page == "off" else shared.page,
            page_names=settings.page == "names",
        )
        shared.probes.append(endpoints.registry_trouble)
        app = App(core, authenticator, endpoints, name=upstream.name, tracing=tracing, idle=settings.limits.idle)
        yield Assembled(app, tuple(reloads))


def _service_agent(agents: Agents, upstream: UpstreamSettings) -> Agent:
    """Return an agent that acts with the proxy's credentials; they are read again for it."""
    stored = stored_credentials(upstream)
    agents.drop("service")
    return agents.get("service", lambda: stored)


def _client_authenticator(
    upstream: UpstreamSettings,
    settings: ProxySettings,
    agents: Agents,
    client: http.HttpClient,
    *,
    is_first: bool,
    is_only: bool,
) -> ClientAuthenticator:
    async def discover() -> Bearer | None:
        url = upstream.url.copy_with(path="/v2/")
        with translated("GET", url):
            answer = await http.exchange(client, "GET", url, headers={})
        challenge = choose(answer.headers.get_list("www-authenticate"))
        return challenge if isinstance(challenge, Bearer) else None

    options = upstream.options
    broker = TokenBroker(
        upstream.url,
        client,
        discover=discover,
        name="" if is_only else upstream.name,
        anonymous=not is_first,
        trusted=options.trusted_realms,
        public_url=settings.callers_url(),
        deadline=options.retry_policy.timeout,
    )
    return ClientAuthenticator(
        upstream.registry,
        agents=agents,
        broker=broker,
        mount_rights=settings.mount_rights,
        anonymous=not is_first,
        names=OwnNames.of(settings.host, settings.callers_url(), any_host=False),
    )


async def _sweep(core: Core) -> None:
    """Drop idle sessions, and release the leases of abandoned pushes."""
    while True:
        await asyncio.sleep(_SWEEP_SECONDS)
        late = core.sessions.take_expired()
        await asyncio.gather(*(core.drop_session(session) for session in late))
        await core.turns.release_idle(core.sessions.is_push_active_in)
        await core.recorder.write_idle_pushes()


async def _close_sessions(core: Core, sweep: "asyncio.Task[None]") -> None:
    sweep.cancel()
    await asyncio.gather(sweep, return_exceptions=True)
    with contextlib.suppress(TimeoutError):  # sessions that are not cancelled expire at the registry
        async with asyncio.timeout(_CANCEL_SECONDS):
            await asyncio.gather(*(core.drop_session(session) for session in core.sessions.all()))
