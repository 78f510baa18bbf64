"""An ASGI application as a service: its address, TLS, and a graceful stop."""

import asyncio
import logging
import signal
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import uvicorn

from crossmount import events
from crossmount._dataclass import dataclass
from crossmount._signals import ReceivedSignals
from crossmount.errors import InvalidInputError, ListenError
from crossmount.proxy.http.exchange import Message, Receive, Send
from crossmount.proxy.http.uvicorn_internals import SignalFreeServer, protocol_with
from crossmount.proxy.reload import Apply, Prepare
from crossmount.proxy.settings import ServerLimits

Application = Callable[[Message, Receive, Send], Awaitable[None]]

_BACKLOG = 1024
_TICK = 0.05
_CUT_SECONDS = 2
"""Seconds between the end of the grace period and the abort of the requests that are left."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """An address to listen on.

    Attributes:
        host: a host name or an IP address.
        port: the port; 0 lets the system choose.
        tls_cert: a PEM file of the certificate, for https.
        tls_key: a PEM file of its key.
    """

    host: str
    port: int
    tls_cert: Path | None = None
    tls_key: Path | None = None


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A server that listens.

    Attributes:
        url: its URL.
        stop: asks it to stop; requests under way may finish, until `stop` is called again.
        prepare_certificate: reads the certificate again, to show it to new connections; None without TLS.
        ended: a task that ends when the server has stopped.
    """

    url: str
    stop: Callable[[], None]
    ended: "asyncio.Task[None]"
    prepare_certificate: Prepare | None = None

    async def run_until_signal(
        self, ready: Callable[[], None], *, on_hangup: Callable[[], object] | None = None
    ) -> None:
        """Run until SIGTERM or SIGINT; a later one stops at once.

        Args:
            ready: called when signals are handled.
            on_hangup: called for each SIGHUP; without it SIGHUP ends the process.
        """
        loop = asyncio.get_running_loop()
        received = ReceivedSignals(time.monotonic)

        def stop(number: int) -> None:
            if received.add(number) != "again":
                self.stop()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop, number)
        if on_hangup is not None:
            loop.add_signal_handler(signal.SIGHUP, on_hangup)
        ready()
        try:
            await self.ended
        finally:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                loop.remove_signal_handler(number)


@asynccontextmanager
async def listening(
    app: Application,
    address: ListenAddress,
    limits: ServerLimits,
    *,
    stopping: Callable[[], None] = lambda: None,
    busy: Callable[[], bool] = lambda: False,
) -> AsyncIterator[RunningServer]:
    """Run a server until the block ends.

    Args:
        app: the application.
        address: where to listen.
        limits: limits on clients.
        stopping: called when the server is asked to stop.
        busy: returns whether work is under way that a stop waits for, up to `limits.grace`.

    Raises:
        ListenError: the address cannot be used.
        InvalidInputError: the certificate cannot be used.
    """
    with _bound(address.host, address.port) as sock:
        server = SignalFreeServer(_config(app, address, limits))
        server.config.load()
        stop_requested = asyncio.Event()

        def stop() -> None:
            if stop_requested.is_set():
                server.force_exit = server.should_exit = True
            stop_requested.set()

        async def drain() -> None:
            await stop_requested.wait()
            stopping()
            deadline = time.monotonic() + limits.grace
            while (  # noqa: ASYNC110 the end of a push has no event
                busy() and time.monotonic() < deadline and not server.force_exit
            ):
                await asyncio.sleep(_TICK)
            server.should_exit = True

        host, port = sock.getsockname()[:2]
        scheme = "http" if address.tls_cert is None else "https"
        netloc = f"[{host}]" if ":" in host else host
        draining = asyncio.create_task(drain())
        ended = asyncio.create_task(server.serve(sockets=[sock]))
        try:
            yield RunningServer(
                f"{scheme}://{netloc}:{port}", stop, ended, _certificate_reload(server.config.ssl, address)
            )
        finally:
            server.should_exit = True
            await ended
            draining.cancel()
            await asyncio.gather(draining, return_exceptions=True)


def log_index_event(event: events.Event, *, meanwhile: str = "going on without the index") -> None:
    """Log when the index fails, what happens `meanwhile`, and when it answers again; metrics count the rest."""
    match event:
        case events.IndexDegraded():
            _log.warning("%s: %s", meanwhile, event.cause)
        case events.IndexRestored():
            _log.warning("the index answers again")


def _config(app: Application, address: ListenAddress, limits: ServerLimits) -> uvicorn.Config:
    check_certificate(address.tls_cert, address.tls_key)
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


def _certificate_reload(context: ssl.SSLContext | None, address: ListenAddress) -> Prepare | None:
    cert, key = address.tls_cert, address.tls_key
    if context is None or cert is None:
        return None

    def prepare() -> Apply:
        check_certificate(cert, key)
        return lambda: context.load_cert_chain(
            cert, key
        )  # connections that exist keep the one that they were shown

    return prepare


def check_certificate(cert: Path | None, key: Path | None) -> None:
    """Check that a certificate can be served with its key.

    Raises:
        InvalidInputError: it cannot.
    """
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
