"""The proxy as a service: built from its settings, run until it is stopped, and closed again."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from crossmount._dataclass import dataclass
from crossmount.index.protocol import MountableLayers
from crossmount.proxy.app import App
from crossmount.proxy.assembly import assembled
from crossmount.proxy.gateway import Gateway
from crossmount.proxy.http.serving import ListenAddress, RunningServer, listening
from crossmount.proxy.own_endpoints import MetricsApp
from crossmount.proxy.page import Page
from crossmount.proxy.reload import Reloader
from crossmount.proxy.settings import ProxySettings, UpstreamSettings
from crossmount.proxy.shared import Shared

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RunningProxy:
    """A proxy that listens.

    Attributes:
        apps: the application of each upstream; the first one answers requests that name none.
        upstreams: the upstreams.
        server: its server.
        reloader: reads its files again.
    """

    apps: tuple[App, ...]
    upstreams: tuple[UpstreamSettings, ...]
    server: RunningServer
    reloader: Reloader

    @property
    def url(self) -> str:
        """The URL that the proxy listens at."""
        return self.server.url

    @property
    def stop(self) -> Callable[[], None]:
        """A function that asks the proxy to stop; pushes in progress may finish."""
        return self.server.stop


async def serve(
    settings: ProxySettings,
    index: MountableLayers,
    *,
    page: Page | None = None,
    ready: Callable[[RunningProxy], None] = lambda _: None,
    provider: "TracerProvider | None" = None,
) -> None:
    """Run a proxy until SIGTERM or SIGINT; SIGHUP, or a change, makes it read its files again.

    It warns at the start if a registry does not answer.

    Args:
        settings: the proxy's settings.
        index: the index of sources; the caller closes it.
        page: the page at `/_crossmount/`.
        ready: called when the proxy listens and handles signals.
        provider: exports spans; None makes none. The caller shuts it down.

    Raises:
        ListenError: the address cannot be used.
        InvalidInputError: another setting is invalid.
    """
    async with running(settings, index, page=page, provider=provider) as proxy:
        checks = [asyncio.create_task(_warn_of_registry_trouble(app)) for app in proxy.apps]
        checks.append(asyncio.create_task(proxy.reloader.watch()))
        try:
            await proxy.server.run_until_signal(lambda: ready(proxy), on_hangup=proxy.reloader.reload)
        finally:
            for check in checks:
                check.cancel()
            await asyncio.gather(*checks, return_exceptions=True)


@asynccontextmanager
async def running(
    settings: ProxySettings,
    index: MountableLayers,
    *,
    page: Page | None = None,
    provider: "TracerProvider | None" = None,
) -> AsyncIterator[RunningProxy]:
    """Run a proxy until the block ends."""
    address = ListenAddress(settings.host, settings.port, settings.tls_cert, settings.tls_key)
    async with AsyncExitStack() as stack:
        shared = await stack.enter_async_context(Shared.opened(settings, index, page=page, provider=provider))
        upstreams = settings.upstream_list(shared.policy.value)
        apps: list[App] = []
        reloads = shared.reloads()
        for upstream in upstreams:
            made = await stack.enter_async_context(
                assembled(upstream, shared, is_first=not apps, is_only=len(upstreams) == 1)
            )
            apps.append(made.app)
            reloads += made.reloads

        def drain() -> None:
            for app in apps:
                app.draining = True

        def busy() -> bool:  # a push between two layers is in progress too
            return any(app.core.sessions.any_push_active() or app.active for app in apps)

        if settings.metrics_listen is not None:
            metrics = MetricsApp(shared.exposition, idle=settings.limits.idle)
            await stack.enter_async_context(
                listening(metrics, ListenAddress(*settings.metrics_listen), settings.limits)
            )
        names = {name: upstream.name for upstream in upstreams for name in upstream.names()}
        by_name = {upstream.name: app for upstream, app in zip(upstreams, apps, strict=True)}
        application = apps[0] if len(apps) == 1 else Gateway(by_name, names)
        server = await stack.enter_async_context(
            listening(application, address, settings.limits, stopping=drain, busy=busy)
        )
        if server.prepare_certificate is not None:
            reloads.append(server.prepare_certificate)
        files = dict.fromkeys([*settings.files(), *(upstream.options.authfile for upstream in upstreams)])
        yield RunningProxy(tuple(apps), upstreams, server, Reloader(files, reloads))


async def _warn_of_registry_trouble(app: App) -> None:
    """Log at the start, while the operator is watching, that the registry cannot be used."""
    why = await app.endpoints.registry_trouble()
    if why is not None:
        _log.warning("pushes will fail until the registry serves: %s", why)
