"""The parts of the proxy, built from its settings: those that all upstreams share, and those of one upstream."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import field

import httpx

from crossmount._dataclass import dataclass
from crossmount.discovery import EventFeed
from crossmount.discovery.webhooks import WebhookSecrets
from crossmount.errors import InvalidInputError
from crossmount.fleet import Fleet, Patience
from crossmount.index import GuardedIndex
from crossmount.index.protocol import MountableLayers
from crossmount.oci.reference import is_loopback
from crossmount.proxy.app import App
from crossmount.proxy.auth.callers import Agent, Agents, Authenticator
from crossmount.proxy.auth.client_mode import ClientAuthenticator
from crossmount.proxy.auth.permissions import Permissions
from crossmount.proxy.auth.service_mode import AllowedCallers, CallerChecks, OwnNames, ServiceAuthenticator
from crossmount.proxy.auth.tokens import TokenBroker
from crossmount.proxy.event_receiver import EventReceiver
from crossmount.proxy.http.serving import check_certificate, log_index_event
from crossmount.proxy.http.upstream import Upstream
from crossmount.proxy.own_endpoints import OwnEndpoints
from crossmount.proxy.policy import Policy, read_policy
from crossmount.proxy.recorder import ProxyRecorder
from crossmount.proxy.reload import Apply, Live, Prepare
from crossmount.proxy.settings import ProxySettings, UpstreamSettings
from crossmount.proxy.telemetry import Exposition, Metrics
from crossmount.proxy.uploads.core import Core
from crossmount.proxy.uploads.mounting import CallerMounter
from crossmount.proxy.uploads.sessions import ClientSessions
from crossmount.proxy.uploads.source_privacy import SourcePrivacy
from crossmount.proxy.uploads.spool import SpoolFolder
from crossmount.proxy.uploads.turns import ProxyTurns
from crossmount.proxy.uploads.wider_tokens import WiderTokens
from crossmount.registry.auth.challenge import Bearer, choose
from crossmount.registry.credentials.given import credential_source
from crossmount.registry.http import transport as http
from crossmount.registry.http.errors import translated
from crossmount.registry.http.httpx_internals import unlogged
from crossmount.registry.http.location import Origin

_SWEEP_SECONDS = 30.0
_CANCEL_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Shared:
    """What all upstreams of a proxy share.

    Attributes:
        settings: the proxy's settings.
        index: the index of sources, whose failures are only logged.
        fleet: whose turn it is to upload a layer.
        policy: the policy in force.
        checks: checks callers, for `--auth service`.
        secrets: the secrets of senders of events; None takes no events.
        exposition: the metrics of all upstreams.
        probes: what asks the registry of each upstream.
    """

    settings: ProxySettings
    index: GuardedIndex
    fleet: Fleet
    policy: Live[Policy]
    checks: Live[CallerChecks]
    secrets: Live[WebhookSecrets] | None
    exposition: Exposition = field(default_factory=Exposition)
    probes: list[Callable[[], Awaitable[str | None]]] = field(default_factory=list)

    @classmethod
    @asynccontextmanager
    async def opened(cls, settings: ProxySettings, index: MountableLayers) -> AsyncIterator["Shared"]:
        """Read the files that the settings name, and close what was opened when the block ends.

        Raises:
            InvalidInputError: a file is invalid, or would let everybody in.
        """
        guarded = GuardedIndex(index, observer=log_index_event, lasting=True)
        events = settings.events_secret
        async with Fleet(guarded) as fleet:
            yield cls(
                settings=settings,
                index=guarded,
                fleet=fleet,
                policy=Live(lambda: _policy(settings)),
                checks=Live(lambda: CallerChecks(_callers(settings))),
                secrets=None if events is None else Live(lambda: WebhookSecrets.read(events)),
            )

    def reloads(self) -> list[Prepare]:
        """Return what reads the files again."""
        secrets = [] if self.secrets is None else [self.secrets.prepare]
        return [self._prepare_policy, self.checks.prepare, *secrets]

    def _prepare_policy(self) -> Apply:
        fresh = _policy(self.settings)
        if fresh.upstreams != self.policy.value.upstreams:
            raise InvalidInputError(f"{self.settings.policy}: its upstreams changed: restart the proxy for that")

        def apply() -> None:
            self.policy.value = fresh

        return apply


@dataclass(frozen=True, slots=True)
class Assembled:
    """The application of one upstream.

    Attributes:
        app: the application.
        reloads: what reads the upstream's own files again.
    """

    app: App
    reloads: tuple[Prepare, ...] = ()


def check_settings(settings: ProxySettings) -> list[str]:
    """Read all files that the settings name, and return lines that say what was found.

    Raises:
        InvalidInputError: a setting or a file is invalid.
    """
    policy, callers = _policy(settings), _callers(settings)
    check_certificate(settings.tls_cert, settings.tls_key)
    settings.callers_url()
    if settings.events_secret is not None:
        WebhookSecrets.read(settings.events_secret)
    upstreams = settings.upstream_list(policy)
    lines = [f"upstream {upstream.name}: {upstream.url}" for upstream in upstreams]
    if settings.auth == "service":
        names = sorted({*callers.passwords, *callers.tokens.values()})
        lines.append(f"callers: {', '.join(names) or 'anybody on this machine'}")
        known = {name for rule in policy.rules for name in (rule.pushers or set()) | (rule.readers or set())}
        lines += [f"warning: a rule names {name}, which is no caller" for name in sorted(known - set(names))]
    lines += [
        f"rule {number}: {', '.join(rule.repositories)}" for number, rule in enumerate(policy.rules, start=1)
    ]
    return [*lines, "ok"]


def _policy(settings: ProxySettings) -> Policy:
    policy = Policy() if settings.policy is None else read_policy(settings.policy)
    if policy.names_callers and settings.auth != "service":
        raise InvalidInputError(
            f"{settings.policy}: rules with pushers or readers need --auth service: with --auth client the "
            "registry alone knows the callers"
        )
    return policy


def _callers(settings: ProxySettings) -> AllowedCallers:
    if settings.auth != "service":
        return AllowedCallers()
    callers = AllowedCallers.read(settings.htpasswd, settings.tokens)
    if callers.permits_everyone and not is_loopback(settings.host):
        raise InvalidInputError(
            f"--auth service on {settings.host} would lend the proxy's rights to anybody: give --htpasswd or "
            "--tokens, or listen on 127.0.0.1"
        )
    return callers


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
    recorder = ProxyRecorder(guarded, metrics)
    permissions = Permissions(shared.policy, upstream=upstream.name, allow_sources=upstream.allow_sources)
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(http.make_client(options, registry=Origin.of(base)))
        agents = Agents(registry, options=options, index=guarded, connections=client)
        stack.push_async_callback(agents.aclose)
        await stack.enter_async_context(recorder.running())
        reloads: list[Prepare] = []
        authenticator: Authenticator
        if settings.auth == "service":
            agent = Live(lambda: _service_agent(agents, upstream))
            reloads.append(agent.prepare)
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
            patience=Patience(limit=settings.wait),
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
        )
        shared.probes.append(endpoints.registry_trouble)
        app = App(core, authenticator, endpoints, name=upstream.name, idle=settings.limits.idle)
        yield Assembled(app, tuple(reloads))


def _service_agent(agents: Agents, upstream: UpstreamSettings) -> Agent:
    """Return an agent that acts with the proxy's credentials, which it reads anew."""
    options, registry = upstream.options, upstream.registry
    stored = credential_source(
        options.credentials, registry=registry.registry, authfile=options.authfile, written=registry.address
    )
    agents.drop("service")
    return agents.get("service", lambda: stored)


def _client_authenticator(
    upstream: UpstreamSettings,
    settings: ProxySettings,
    agents: Agents,
    client: httpx.AsyncClient,
    *,
    is_first: bool,
    is_only: bool,
) -> ClientAuthenticator:
    async def discover() -> Bearer | None:
        url = upstream.url.copy_with(path="/v2/")
        with translated("GET", url), unlogged():
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
        deadline=options.retry.timeout,
    )
    return ClientAuthenticator(
        upstream.registry, agents=agents, broker=broker, mount_rights=settings.mount_rights, anonymous=not is_first
    )


async def _sweep(core: Core) -> None:
    """Drop idle sessions, and release the leases of abandoned pushes."""
    while True:
        await asyncio.sleep(_SWEEP_SECONDS)
        late = core.sessions.take_expired()
        await asyncio.gather(*(core.drop_session(session) for session in late))
        await core.turns.release_idle(core.sessions.is_push_active_in)


async def _close_sessions(core: Core, sweep: "asyncio.Task[None]") -> None:
    sweep.cancel()
    await asyncio.gather(sweep, return_exceptions=True)
    with contextlib.suppress(TimeoutError):  # sessions that are not cancelled expire at the registry
        async with asyncio.timeout(_CANCEL_SECONDS):
            await asyncio.gather(*(core.drop_session(session) for session in core.sessions.all()))
