"""The proxy as a service."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from crossmount.index.protocol import MountableLayers
from crossmount.proxy.app import App
from crossmount.proxy.assembly import assembled
from crossmount.proxy.http.serving import ListenAddress, RunningServer, listening
from crossmount.proxy.settings import ProxySettings

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RunningProxy:
    """A proxy that listens.

    Attributes:
        app: what answers.
        service: where, and how it is stopped.
    """

    app: App
    service: RunningServer

    @property
    def url(self) -> str:
        """Where it listens."""
        return self.service.url

    @property
    def stop(self) -> Callable[[], None]:
        """Ask it to stop; pushes under way may finish."""
        return self.service.stop


async def serve(
    settings: ProxySettings, index: MountableLayers, *, ready: Callable[[RunningProxy], None] = lambda _: None
) -> None:
    """Serve until SIGTERM or SIGINT; see `RunningServer.until_told`.

    Raises:
        ListenError: the address can't be used.
        InvalidInputError: another setting can't.
    """
    async with running(settings, index) as proxy:
        greeting = asyncio.create_task(_greet(proxy.app))
        try:
            await proxy.service.run_until_signal(lambda: ready(proxy))
        finally:
            greeting.cancel()
            await asyncio.gather(greeting, return_exceptions=True)


@asynccontextmanager
async def running(settings: ProxySettings, index: MountableLayers) -> AsyncIterator[RunningProxy]:
    """Serve until the block ends."""
    address = ListenAddress(settings.host, settings.port, settings.tls_cert, settings.tls_key)
    async with assembled(settings, index) as app:

        def stopping() -> None:
            app.draining = True

        def busy() -> bool:  # pushes with layers to come count, too
            return bool(app.core.sessions.any_push_active() or app.active)

        async with listening(app, address, settings.limits, stopping=stopping, busy=busy) as service:
            yield RunningProxy(app, service)


async def _greet(app: App) -> None:
    """Say at once if the registry does not serve: whoever started the proxy is still looking."""
    why = await app.trouble()
    if why is not None:
        _log.warning("pushes will fail until the registry serves: %s", why)
