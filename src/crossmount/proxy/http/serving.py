"""An ASGI application as a service: its port, TLS, and a stop that lets what is under way finish."""

import asyncio
import ipaddress
import logging
import signal
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from crossmount import events
from crossmount.errors import InvalidInputError, ListenError
from crossmount.proxy.http.exchange import Message, Receive, Send
from crossmount.proxy.http.protocol import protocol_with
from crossmount.proxy.settings import ServerLimits

Application = Callable[[Message, Receive, Send], Awaitable[None]]

_BACKLOG = 1024
_TICK = 0.05
_CUT_SECONDS = 2
"""How long what goes on past its grace has to end before it is cut."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """Where to listen, and as whom.

    Attributes:
        port: 0 lets the system choose.
        tls_cert: a PEM file of the certificate, for https.
        tls_key: a PEM file of its key.
    """

    host: str
    port: int
    tls_cert: Path | None = None
    tls_key: Path | None = None


@dataclass(frozen=True, slots=True)
class RunningServer:
    """An application that listens.

    Attributes:
        url: where.
        stop: ask it to stop; what is under way may finish, until it is asked again.
        ended: done when it has stopped.
    """

    url: str
    stop: Callable[[], None]
    ended: "asyncio.Task[None]"

    async def run_until_signal(self, ready: Callable[[], None]) -> None:
        """Serve until SIGTERM or SIGINT; a second one does not wait. `ready` is called once they are heeded."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        ready()
        try:
            await self.ended
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: when to stop is decided here."""

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]  # a plain one will do
        """Leave signals alone."""
        return nullcontext()


@asynccontextmanager
async def listening(
    app: Application,
    address: ListenAddress,
    limits: ServerLimits,
    *,
    stopping: Callable[[], None] = lambda: None,
    busy: Callable[[], bool] = lambda: False,
) -> AsyncIterator[RunningServer]:
    """Serve until the block ends.

    Args:
        app: what answers.
        address: where.
        limits: what callers are held to.
        stopping: called once it was asked to stop.
        busy: tells whether something is under way that is worth waiting for, up to `limits.grace`.

    Raises:
        ListenError: the address can't be used.
        InvalidInputError: the certificate can't.
    """
    with _bound(address.host, address.port) as sock:
        server = _Server(_config(app, address, limits))
        server.config.load()
        asked = asyncio.Event()

        def stop() -> None:
            if asked.is_set():
                server.force_exit = server.should_exit = True
            asked.set()

        async def drain() -> None:
            await asked.wait()
            stopping()
            deadline = time.monotonic() + limits.grace
            while (  # noqa: ASYNC110 some of what it waits for has no event
                busy() and time.monotonic() < deadline and not server.force_exit
            ):
                await asyncio.sleep(_TICK)
            server.should_exit = True

        host, port = sock.getsockname()[:2]
        scheme = "http" if address.tls_cert is None else "https"
        shown = f"[{host}]" if ":" in host else host
        draining = asyncio.create_task(drain())
        ended = asyncio.create_task(server.serve(sockets=[sock]))
        try:
            yield RunningServer(f"{scheme}://{shown}:{port}", stop, ended)
        finally:
            server.should_exit = True
            await ended
            draining.cancel()
            await asyncio.gather(draining, return_exceptions=True)


def log_index_event(event: events.Event, *, meanwhile: str = "going on without the index") -> None:
    """Say when the index goes, what is done `meanwhile`, and when it comes back; metrics tell of the rest."""
    match event:
        case events.IndexDegraded():
            _log.warning("%s: %s", meanwhile, event.cause)
        case events.IndexRestored():
            _log.warning("the index answers again")


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches what listens on `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _config(app: Application, address: ListenAddress, limits: ServerLimits) -> uvicorn.Config:
    _check_certificate(address.tls_cert, address.tls_key)
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
        timeout_graceful_shutdown=_CUT_SECONDS,
        ssl_certfile=None if address.tls_cert is None else str(address.tls_cert),
        ssl_keyfile=None if address.tls_key is None else str(address.tls_key),
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
def _bound(host: str, port: int) -> Iterator[socket.socket]:
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
