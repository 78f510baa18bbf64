"""uvicorn with limits on clients: the only module that uses private parts of uvicorn.

uvicorn has no limits for its httptools protocol. A client could send headers or trailers without end, fast or
slowly, stop in the middle of a request that is already answered, or never read an answer. Each of these would
occupy a connection, and some of them memory, forever. Deadlines on bodies are in `exchange`.

It was written and tried with uvicorn 0.54. `tests/proxy/test_proxy_uvicorn.py` names the part that is missing if
another version has changed it.
"""

import array
import asyncio
from contextlib import AbstractContextManager, nullcontext
from http import HTTPStatus
from typing import Any

import httptools
import uvicorn
from uvicorn._types import ASGI3Application, ASGIReceiveCallable, ASGISendCallable, Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from crossmount._dataclass import dataclass
from crossmount.proxy.http.errors import RequestRefusedError, unavailable
from crossmount.proxy.settings import HEADER_SHARE, ServerLimits

_REFUSED_MAX = 64
"""The most connections above the limit that get an error as an answer; further ones are closed at once."""


class SignalFreeServer(uvicorn.Server):
    """uvicorn's server without its signal handlers; its caller decides when it stops."""

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]  # uvicorn's is a generator
        """Leave the process's signal handlers unchanged."""
        return nullcontext()


def protocol_with(limits: ServerLimits) -> type[HttpToolsProtocol]:
    """Return a protocol class with these limits, for `uvicorn.Config(http=...)`."""
    return type("BoundProtocol", (BoundedProtocol,), {"limits": limits, "total": HeaderTotal()})


@dataclass(slots=True)
class HeaderTotal:
    """The header bytes of all connections of one server that are in memory now."""

    taken: int = 0


class UpgradeFreeParser(httptools.HttpRequestParser):
    """Parses a request that offers an upgrade as one without the offer: a server may decline it (RFC 9110, 7.8).

    httptools takes what follows the head of such a request for another protocol: a body would be lost, or parsed
    as the next request. Here the head is parsed once more, without the offer.

    Args:
        protocol: receives what is parsed.
    """

    def __init__(self, protocol: "BoundedProtocol") -> None:
        super().__init__(protocol)
        self._protocol = protocol
        self.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's own

    @property
    def has_offer(self) -> bool:
        """Whether the request offers an upgrade. CONNECT, which has no other form, does not count."""
        return self.should_upgrade() and self.get_method() != b"CONNECT"

    def feed_data(self, data: "bytes | bytearray | memoryview | array.array[int]") -> None:
        """Parse bytes."""
        while True:
            try:
                super().feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                if not self.has_offer:
                    raise
                data = self._protocol.head_without_offer() + bytes(data)[upgrade.args[0] :]
            else:
                return


class BoundedProtocol(HttpToolsProtocol):
    """One connection of a client.

    Attributes:
        limits: its limits, set by `protocol_with`.
        total: counts the header bytes of all connections; set by `protocol_with`.
    """

    limits = ServerLimits()
    total = HeaderTotal()

    def __init__(self, *args: Any, **details: Any) -> None:
        super().__init__(*args, **details)
        self.parser: UpgradeFreeParser = UpgradeFreeParser(self)
        self._deadline: asyncio.TimerHandle | None = None
        self._unread_timer: asyncio.TimerHandle | None = None
        self._in_headers = False
        self._header_bytes = 0
        self._counted = 0
        self._is_lost = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn's signature
        """Start the deadline of the first request's headers; close a connection far above the limit."""
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections + _REFUSED_MAX:
            transport.abort()
        else:
            self._start_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the timers; a request that ends later starts none, since the transport may be gone."""
        self._is_lost = True
        self._cancel_deadline()
        self._cancel_unread_timer()
        self._count(0)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse bytes, and bound those that are no body: headers, trailers, chunk extensions, empty lines."""
        self._header_bytes += len(data)
        super().data_received(data)
        if self._header_bytes:
            self._count(self._header_bytes)
        if self._header_bytes > self.limits.header_bytes:
            self._refuse(RequestRefusedError(431, "UNSUPPORTED", "the headers are too large"))
        elif self._header_bytes and self._is_total_reached:
            self._refuse(unavailable("too many bytes of headers at once: try again later"))
        elif self._deadline is None and (
            self._in_headers  # most heads come whole, and need no timer
            or (self._latest is not None and self._latest.response_complete)  # before its end, or none follows
        ):
            self._start_deadline()

    def on_message_begin(self) -> None:
        """Note that headers come; `data_received` starts their deadline if they are not complete by then."""
        super().on_message_begin()
        self._in_headers = True
        self._cancel_deadline()
        if not self.flow.write_paused:
            self._cancel_unread_timer()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Add a header; ignore a trailer, which comes too late to have a meaning."""
        if self._in_headers:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Cancel the deadline, and pass the request on unless there are too many connections or header bytes."""
        if self.parser.has_offer:
            return
        self._in_headers, self._header_bytes = False, 0
        self._cancel_deadline()
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > self.limits.header_bytes:
            self._refuse(RequestRefusedError(431, "UNSUPPORTED", "the headers are too large"))
            return
        self._count(size)
        if self._is_total_reached or len(self.connections) > self.limits.connections:
            self._refuse(unavailable("too many connections, or bytes of headers, at once: try again later"))
        else:
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        """End the request, unless its head is parsed once more."""
        if not self.parser.has_offer:
            super().on_message_complete()

    def head_without_offer(self) -> bytes:
        """Return the head of the latest request without the upgrade that it offers."""
        first = b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        lines = [b"%b: %b" % pair for pair in self.headers if pair[0] != b"upgrade"]
        return b"\r\n".join([first, *lines, b"", b""])

    def on_body(self, body: bytes) -> None:
        """Pass on a piece of the body. A single one is not copied: Python returns `b"" + piece` as it is."""
        self._header_bytes = 0
        cycle: Any = self._latest
        if cycle is not None and not cycle.body:
            cycle.body = b""
        elif cycle is not None and isinstance(cycle.body, bytes):
            cycle.body = bytearray(cycle.body)  # many small pieces are appended to it
        super().on_body(body)

    def pause_writing(self) -> None:
        """Start the deadline of a client that does not read."""
        super().pause_writing()
        self._start_unread_timer()

    def resume_writing(self) -> None:
        """Cancel the deadline of a client that reads again."""
        self._cancel_unread_timer()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Refuse a request that is not HTTP, with an error of the distribution specification."""
        self._refuse(RequestRefusedError(400, "UNSUPPORTED", msg))

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        async def answer(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
            try:
                await app(scope, receive, send)
            finally:  # a closed connection exists until the client has read the answer
                self._count(0)
                self._start_unread_timer()

        super()._start_asgi_task(cycle, answer)

    @property
    def _latest(self) -> RequestResponseCycle | None:
        return self.cycle  # None before the first request, against uvicorn's annotation

    @property
    def _is_total_reached(self) -> bool:
        return self.total.taken > self.limits.connections * HEADER_SHARE

    def _count(self, header_bytes: int) -> None:
        """Count the header bytes of this connection that are in memory."""
        self.total.taken += header_bytes - self._counted
        self._counted = header_bytes

    def _start_deadline(self) -> None:
        self._cancel_deadline()
        if self._is_lost:
            return
        self._deadline = self.loop.call_later(self.limits.header_seconds, self._on_deadline)

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _start_unread_timer(self) -> None:
        """Start the deadline of a client that has bytes left to read."""
        self._cancel_unread_timer()
        if not self._is_lost and self.transport.get_write_buffer_size():
            self._unread_timer = self.loop.call_later(self.limits.idle, self._abort_unread)

    def _cancel_unread_timer(self) -> None:
        if self._unread_timer is not None:
            self._unread_timer.cancel()
            self._unread_timer = None

    def _abort_unread(self) -> None:
        self._unread_timer = None
        if self.transport.get_write_buffer_size():
            self.transport.abort()

    def _on_deadline(self) -> None:
        self._deadline = None
        if self._in_headers or self._latest is None:
            self._refuse(RequestRefusedError(408, "UNSUPPORTED", "the request's headers took too long"))
        else:
            self.transport.close()

    def _refuse(self, error: RequestRefusedError) -> None:
        """Send an error outside of any request and close; in the middle of an answer only close."""
        self._cancel_deadline()
        if self.transport.is_closing():
            return
        latest = self._latest
        if self.pipeline or (latest is not None and latest.response_started and not latest.response_complete):
            self.transport.abort()
            return
        error.close = True
        body, status = error.body(), HTTPStatus(error.status)
        lines = [b"%s: %s\r\n" % pair for pair in error.answer_headers(len(body))]
        first = f"HTTP/1.1 {status} {status.phrase}\r\n".encode()
        self.transport.write(b"".join([first, *lines, b"\r\n", body]))
        self.transport.close()
