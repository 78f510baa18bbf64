"""A proxy put together from its settings, and taken apart again."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import httpx

from crossmount.discovery import EventFeed
from crossmount.discovery.webhooks import WebhookSecrets
from crossmount.errors import InvalidInputError
from crossmount.fleet import Fleet, Patience
from crossmount.index import GuardedIndex
from crossmount.index.protocol import MountableLayers, MountIndex
from crossmount.oci import Repository
from crossmount.proxy.app import App
from crossmount.proxy.auth.callers import Agents
from crossmount.proxy.auth.client_mode import Authenticator, ClientAuthenticator
from crossmount.proxy.auth.service_mode import AllowedCallers, ServiceAuthenticator
from crossmount.proxy.auth.tokens import TokenBroker
from crossmount.proxy.core import Core
from crossmount.proxy.http.event_receiver import EventReceiver
from crossmount.proxy.http.serving import is_loopback, log_index_event
from crossmount.proxy.http.upstream import Upstream
from crossmount.proxy.metrics import Metrics
from crossmount.proxy.recorder import ProxyRecorder
from crossmount.proxy.settings import ProxySettings
from crossmount.proxy.uploads.mounting import Mounting, SourcePolicy
from crossmount.proxy.uploads.sessions import ClientSessions
from crossmount.proxy.uploads.spool import SpoolFolder
from crossmount.proxy.uploads.turns import Turns
from crossmount.registry.auth.challenge import Bearer, choose
from crossmount.registry.credentials.lookup import StoredCredentials
from crossmount.registry.http import transport as http
from crossmount.registry.http.httpx_internals import unlogged
from crossmount.registry.http.options import ClientOptions

_SWEEP_SECONDS = 30.0
_END_SECONDS = 3.0


@asynccontextmanager
async def assembled(settings: ProxySettings, index: MountableLayers) -> AsyncIterator[App]:
    """Give a proxy that runs until the block ends.

    Args:
        settings: what it is like.
        index: where sources are known from; whoever made it closes it.

    Raises:
        InvalidInputError: a setting can't be used.
    """
    base, registry = settings.base(), settings.registry()
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
        client = await stack.enter_async_context(http.make_client(options))
        agents = Agents(registry, options=options, index=guarded, connections=client)
        stack.push_async_callback(agents.aclose)
        await stack.enter_async_context(recorder.running())
        mounting = Mounting(
            guarded, policy=SourcePolicy(settings.allow_sources), recorder=recorder, metrics=metrics
        )
        stack.push_async_callback(mounting.aclose)
        authenticator = _authenticator(settings, base, registry, options, agents, client)
        fleet = await stack.enter_async_context(Fleet(guarded))
        turns = Turns(
            fleet,
            mounting,
            recorder,
            patience=Patience(limit=settings.wait),
            hold=settings.hold,
            uploads=settings.limits.uploads,
        )
        stack.push_async_callback(turns.aclose)
        core = Core(
            registry=registry,
            upstream=Upstream(
                base,
                client,
                challenges=authenticator.rewritten_challenges,
                seconds=metrics.upstream_seconds.observe,
                lends=settings.auth == "service",
            ),
            index=guarded,
            mounting=mounting,
            turns=turns,
            recorder=recorder,
            sessions=ClientSessions(),
            metrics=metrics,
            spool=None
            if settings.spool is None
            else SpoolFolder(settings.spool, limit=settings.limits.spool_bytes),
            manifest_limit=settings.limits.manifest_bytes,
            hook=await _hook(settings, registry, guarded, stack),
        )
        sweep = asyncio.create_task(_sweep(core))
        stack.push_async_callback(_end, core, sweep)
        yield App(core, authenticator, idle=settings.limits.idle)


async def _hook(
    settings: ProxySettings, registry: Repository, index: MountIndex, stack: AsyncExitStack
) -> EventReceiver | None:
    """Return what takes the registry's events, with the proxy's own credentials, if they are wanted."""
    if settings.events_secret is None:
        return None
    secrets = WebhookSecrets.read(settings.events_secret)
    options = replace(settings.options, plain_http=settings.base().scheme == "http")
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
        return _service_door(settings, agents)

    async def discover() -> Bearer | None:
        url = base.copy_with(path="/v2/")
        with http.translated("GET", url), unlogged():
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
    return ClientAuthenticator(registry, agents=agents, broker=broker)


def _service_door(settings: ProxySettings, agents: Agents) -> ServiceAuthenticator:
    callers = AllowedCallers.read(settings.htpasswd, settings.tokens)
    if callers.anybody and not is_loopback(settings.host):
        raise InvalidInputError(
            f"--auth service on {settings.host} would lend the proxy's rights to anybody: give --htpasswd or "
            "--tokens, or listen on 127.0.0.1"
        )
    stored = StoredCredentials(authfile=settings.options.authfile)
    return ServiceAuthenticator(agents.of("service", lambda: stored), callers)


async def _sweep(core: Core) -> None:
    """Let uploads go that were left alone for too long."""
    while True:
        await asyncio.sleep(_SWEEP_SECONDS)
        late = core.sessions.take_expired()
        await asyncio.gather(*(core.drop_session(session) for session in late))
        await core.turns.release_quiet(core.sessions.is_push_active_in)


async def _end(core: Core, sweep: "asyncio.Task[None]") -> None:
    sweep.cancel()
    await asyncio.gather(sweep, return_exceptions=True)
    with contextlib.suppress(TimeoutError):  # the registry lets its sessions run out by itself
        async with asyncio.timeout(_END_SECONDS):
            await asyncio.gather(*(core.drop_session(session) for session in core.sessions.all()))
