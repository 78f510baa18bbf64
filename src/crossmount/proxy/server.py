"""The proxy as a service: its port, TLS, and a stop that lets uploads finish."""

import asyncio
import logging
import signal
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from crossmount.errors import InvalidInputError, ListenError
from crossmount.index.protocol import MountableLayers
from crossmount.proxy.app import App
from crossmount.proxy.assembly import assembled
from crossmount.proxy.protocol import protocol_with
from crossmount.proxy.settings import ProxySettings

_log = logging.getLogger(__name__)
_BACKLOG = 1024
_TICK = 0.05


@dataclass(frozen=True, slots=True)
class Running:
    """A proxy that listens.

    Attributes:
        url: where.
        app: what answers.
        stop: ask it to stop; uploads under way may finish.
    """

    url: str
    app: App
    stop: Callable[[], None]


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: when to stop is decided here."""

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]  # a plain one will do
        """Leave signals alone."""
        return nullcontext()


async def serve(
    settings: ProxySettings, index: MountableLayers, *, ready: Callable[[Running], None] = lambda _: None
) -> None:
    """Serve until SIGTERM or SIGINT; a second one does not wait.

    Raises:
        ListenError: the address can't be used.
        InvalidInputError: another setting can't.
    """
    loop = asyncio.get_running_loop()
    async with running(settings, index) as (proxy, ended):
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, proxy.stop)
        ready(proxy)
        greeting = asyncio.create_task(_greet(proxy.app))
        try:
            await ended
        finally:
            greeting.cancel()
            await asyncio.gather(greeting, return_exceptions=True)
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)


@asynccontextmanager
async def running(
    settings: ProxySettings, index: MountableLayers
) -> "AsyncIterator[tuple[Running, asyncio.Task[None]]]":
    """Serve until the block ends.

    Gives the proxy, and a task that ends when it has stopped.
    """
    async with assembled(settings, index) as app:
        with _listening(settings.host, settings.port) as sock:
            server = _Server(_config(settings, app))
            server.config.load()
            asked = asyncio.Event()

            def stop() -> None:
                if asked.is_set():
                    server.force_exit = server.should_exit = True
                asked.set()

            host, port = sock.getsockname()[:2]
            scheme = "http" if settings.tls_cert is None else "https"
            shown = f"[{host}]" if ":" in host else host
            drain = asyncio.create_task(_drain(app, server, asked, settings.limits.grace))
            ended = asyncio.create_task(server.serve(sockets=[sock]))
            try:
                yield Running(f"{scheme}://{shown}:{port}", app, stop), ended
            finally:
                server.should_exit = True
                await ended
                drain.cancel()
                await asyncio.gather(drain, return_exceptions=True)


async def _greet(app: App) -> None:
    """Say at once if the registry does not serve: whoever started the proxy is still looking."""
    why = await app.trouble()
    if why is not None:
        _log.warning("pushes will fail until the registry serves: %s", why)


async def _drain(app: App, server: uvicorn.Server, asked: asyncio.Event, grace: float) -> None:
    """Once asked to stop: let pushes under way finish, layers to come included, begin no others, then close."""
    await asked.wait()
    app.draining = True
    deadline = time.monotonic() + grace
    while (  # noqa: ASYNC110 some of these have no event
        (app.core.sessions.moving() or app.active) and time.monotonic() < deadline and not server.force_exit
    ):
        await asyncio.sleep(_TICK)
    server.should_exit = True


def _config(settings: ProxySettings, app: App) -> uvicorn.Config:
    limits = settings.limits
    _check_certificate(settings.tls_cert, settings.tls_key)
    return uvicorn.Config(
        app,
        http=protocol_with(limits),
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        backlog=_BACKLOG,
        timeout_keep_alive=int(limits.keep_alive),
        timeout_graceful_shutdown=max(1, int(limits.grace)),
        ssl_certfile=None if settings.tls_cert is None else str(settings.tls_cert),
        ssl_keyfile=None if settings.tls_key is None else str(settings.tls_key),
    )


def _check_certificate(cert: Path | None, key: Path | None) -> None:
    if cert is None:
        if key is not None:
            raise InvalidInputError(f"{key}: a key without a certificate: give --tls-cert too")
        return
    where = str(cert) if key is None else f"{cert} and {key}"

    def refuse() -> bytes:
        raise InvalidInputError(f"{where}: the key has a passphrase, which nobody is there to type: decrypt it")

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password=refuse)
    except OSError as error:
        why = (getattr(error, "reason", None) or error.strerror or "").replace("_", " ").lower()
        raise InvalidInputError(
            f"{where}: not a certificate and its key (PEM), or not of each other: {why or 'unreadable'}"
        ) from error


@contextmanager
def _listening(host: str, port: int) -> "Iterator[socket.socket]":
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ListenError(f"{host}:{port}: no such address: {error.strerror}") from error
    with sock:
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
            sock.listen(_BACKLOG)
        except OSError as error:
            raise ListenError(f"{host}:{port}: cannot listen there: {error.strerror}") from error
        sock.setblocking(False)
        yield sock
