"""The proxy as a service: built from its settings, run until it is stopped, and closed again."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import httpx

from crossmount._dataclass import dataclass
from crossmount.discovery import EventFeed
from crossmount.discovery.webhooks import WebhookSecrets
from crossmount.errors import InvalidInputError
from crossmount.fleet import Fleet, Patience
from crossmount.index import GuardedIndex
from crossmount.index.protocol import MountableLayers, MountIndex
from crossmount.oci import Repository
from crossmount.oci.reference import is_loopback
from crossmount.proxy.app import App
from crossmount.proxy.auth.callers import Agents, Authenticator
from crossmount.proxy.auth.client_mode import ClientAuthenticator
from crossmount.proxy.auth.service_mode import AllowedCallers, OwnNames, ServiceAuthenticator
from crossmount.proxy.auth.tokens import TokenBroker
from crossmount.proxy.event_receiver import EventReceiver
from crossmount.proxy.http.serving import ListenAddress, RunningServer, listening, log_index_event
from crossmount.proxy.http.upstream import Upstream
from crossmount.proxy.own_endpoints import MetricsApp, OwnEndpoints
from crossmount.proxy.recorder import ProxyRecorder
from crossmount.proxy.settings import ProxySettings
from crossmount.proxy.telemetry import Metrics
from crossmount.proxy.uploads.core import Core
from crossmount.proxy.uploads.mounting import CallerMounter, SourcePolicy
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
from crossmount.registry.http.options import ClientOptions

_SWEEP_SECONDS = 30.0
_CANCEL_SECONDS = 3.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RunningProxy:
    """A proxy that listens.

    Attributes:
        app: the application.
        server: its server.
    """

    app: App
    server: RunningServer

    @property
    def url(self) -> str:
        """The URL that the proxy listens at."""
        return self.server.url

    @property
    def stop(self) -> Callable[[], None]:
        """A function that asks the proxy to stop; pushes under way may finish."""
        return self.server.stop


async def serve(
    settings: ProxySettings, index: MountableLayers, *, ready: Callable[[RunningProxy], None] = lambda _: None
) -> None:
    """Run a proxy until SIGTERM or SIGINT, and warn at the start if the registry does not answer.

    Args:
        settings: the proxy's settings.
        index: the index of sources; the caller closes it.
        ready: called when the proxy listens and handles signals.

    Raises:
        ListenError: the address cannot be used.
        InvalidInputError: another setting is invalid.
    """
    async with running(settings, index) as proxy:
        check = asyncio.create_task(_warn_of_registry_trouble(proxy.app))
        try:
            await proxy.server.run_until_signal(lambda: ready(proxy))
        finally:
            check.cancel()
            await asyncio.gather(check, return_exceptions=True)


@asynccontextmanager
async def running(settings: ProxySettings, index: MountableLayers) -> AsyncIterator[RunningProxy]:
    """Run a proxy until the block ends."""
    address = ListenAddress(settings.host, settings.port, settings.tls_cert, settings.tls_key)
    async with assembled(settings, index) as app:

        def drain() -> None:
            app.draining = True

        def busy() -> bool:  # a push whose next layer has not begun yet is under way too
            return bool(app.core.sessions.any_push_active() or app.active)

        async with AsyncExitStack() as stack:
            if settings.metrics_listen is not None:
                metrics = MetricsApp(app.endpoints, idle=settings.limits.idle)
                await stack.enter_async_context(
                    listening(metrics, ListenAddress(*settings.metrics_listen), settings.limits)
                )
            server = await stack.enter_async_context(
                listening(app, address, settings.limits, stopping=drain, busy=busy)
            )
            yield RunningProxy(app, server)


@asynccontextmanager
async def assembled(settings: ProxySettings, index: MountableLayers) -> AsyncIterator[App]:
    """Build the application of a proxy, and close its parts when the block ends.

    Args:
        settings: the proxy's settings.
        index: the index of sources; the caller closes it.

    Raises:
        InvalidInputError: a setting is invalid.
    """
    base, registry = settings.upstream_url(), settings.registry()
    settings.check_sources()
    options = replace(
        settings.options,
        plain_http=base.scheme == "http",
        max_connections=max(settings.options.max_connections, settings.limits.connections),
    )
    guarded = GuardedIndex(index, observer=log_index_event, lasting=True)
    metrics = Metrics(unserved=lambda: guarded.unserved)
    metrics.spool_limit.set(0 if settings.spool is None else settings.limits.spool_bytes)
    recorder = ProxyRecorder(guarded, metrics)
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(http.make_client(options, registry=Origin.of(base)))
        agents = Agents(registry, options=options, index=guarded, connections=client)
        stack.push_async_callback(agents.aclose)
        await stack.enter_async_context(recorder.running())
        authenticator = _authenticator(settings, base, registry, options, agents, client)
        upstream = Upstream(
            base,
            client,
            rewrite_challenges=authenticator.rewritten_challenges,
            observe_seconds=metrics.upstream_seconds.observe,
            own_credentials=settings.auth == "service",
            commit_timeout=options.commit_timeout,
        )
        mounter = CallerMounter(
            guarded,
            policy=SourcePolicy(settings.allow_sources),
            recorder=recorder,
            metrics=metrics,
            upstream=upstream,
            privacy=SourcePrivacy(round_trip=lambda: upstream.round_trip),
        )
        stack.push_async_callback(mounter.aclose)
        fleet = await stack.enter_async_context(Fleet(guarded))
        turns = ProxyTurns(
            fleet,
            mounter,
            recorder,
            patience=Patience(limit=settings.wait),
            hold=settings.hold,
            uploads=settings.limits.uploads,
        )
        stack.push_async_callback(turns.aclose)
        core = Core(
            registry=registry,
            upstream=upstream,
            index=guarded,
            mounter=mounter,
            wider_tokens=WiderTokens(mounter.privacy, mounter.policy),
            turns=turns,
            recorder=recorder,
            sessions=ClientSessions(),
            metrics=metrics,
            spool=None
            if settings.spool is None
            else SpoolFolder(settings.spool, limit=settings.limits.spool_bytes),
            manifest_limit=settings.limits.manifest_bytes,
        )
        events = await _event_receiver(settings, registry, guarded, stack)
        sweep = asyncio.create_task(_sweep(core))
        stack.push_async_callback(_close_sessions, core, sweep)
        yield App(
            core,
            authenticator,
            OwnEndpoints(core, authenticator, events, metrics_apart=settings.metrics_listen is not None),
            idle=settings.limits.idle,
        )


async def _event_receiver(
    settings: ProxySettings, registry: Repository, index: MountIndex, stack: AsyncExitStack
) -> EventReceiver | None:
    """Return a receiver of the registry's events, with the proxy's own credentials; None without a secret."""
    if settings.events_secret is None:
        return None
    secrets = WebhookSecrets.read(settings.events_secret)
    options = replace(settings.options, plain_http=settings.upstream_url().scheme == "http")
    return EventReceiver(await stack.enter_async_context(EventFeed(registry, index, options=options)), secrets)


def _authenticator(
    settings: ProxySettings,
    base: httpx.URL,
    registry: Repository,
    options: ClientOptions,
    agents: Agents,
    client: httpx.AsyncClient,
) -> Authenticator:
    if settings.auth == "service":
        return _service_authenticator(settings, agents)

    async def discover() -> Bearer | None:
        url = base.copy_with(path="/v2/")
        with translated("GET", url), unlogged():
            answer = await http.exchange(client, "GET", url, headers={})
        challenge = choose(answer.headers.get_list("www-authenticate"))
        return challenge if isinstance(challenge, Bearer) else None

    broker = TokenBroker(
        base,
        client,
        discover=discover,
        trusted=options.trusted_realms,
        public_url=settings.callers_url(),
        deadline=options.retry.timeout,
    )
    return ClientAuthenticator(registry, agents=agents, broker=broker, mount_rights=settings.mount_rights)


def _service_authenticator(settings: ProxySettings, agents: Agents) -> ServiceAuthenticator:
    callers = AllowedCallers.read(settings.htpasswd, settings.tokens)
    if callers.permits_everyone and not is_loopback(settings.host):
        raise InvalidInputError(
            f"--auth service on {settings.host} would lend the proxy's rights to anybody: give --htpasswd or "
            "--tokens, or listen on 127.0.0.1"
        )
    options, registry = settings.options, settings.registry()
    stored = credential_source(
        options.credentials, registry=registry.registry, authfile=options.authfile, written=registry.address
    )
    names = OwnNames.of(settings.host, settings.callers_url(), any_host=not callers.permits_everyone)
    return ServiceAuthenticator(agents.get("service", lambda: stored), callers, names=names)


async def _warn_of_registry_trouble(app: App) -> None:
    """Log at the start that the registry cannot be used: the operator is still watching then."""
    why = await app.endpoints.registry_trouble()
    if why is not None:
        _log.warning("pushes will fail until the registry serves: %s", why)


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
