"""HTTP towards clients: uvicorn's protocol on httptools, held to limits that uvicorn has not for this parser.

Without them a client could send headers or trailers for ever, fast or slowly, rest in the middle of a request that
is answered already, or leave an answer unread: each would hold a connection, and some of them memory, without end.
Bodies have their deadline in `exchange`.
"""

import asyncio
from http import HTTPStatus
from typing import Any

from uvicorn._types import ASGI3Application, ASGIReceiveCallable, ASGISendCallable, Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from crossmount.proxy.http.errors import RequestRefusedError, unavailable
from crossmount.proxy.settings import ServerLimits

_TOLD = 64
"""How many connections above the limit are told so; the others are hung up on."""


def protocol_with(limits: ServerLimits) -> type[HttpToolsProtocol]:
    """Return the protocol's class, held to these limits."""
    return type("BoundProtocol", (BoundedProtocol,), {"limits": limits})


class BoundedProtocol(HttpToolsProtocol):
    """One connection.

    Attributes:
        limits: what it is held to; set by `protocol_with`.
    """

    limits = ServerLimits()

    def __init__(self, *args: Any, **details: Any) -> None:
        super().__init__(*args, **details)
        self._deadline: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None
        self._in_headers = False
        self._barren = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Start the clock: a connection is made to ask something."""
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections + _TOLD:
            transport.abort()
        else:
            self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clocks."""
        self._disarm()
        self._let_read()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse, and count what is no body and ends no headers: also trailers, chunk extensions, empty lines."""
        self._barren += len(data)
        super().data_received(data)
        if self._barren > self.limits.header_bytes:
            self._refuse(RequestRefusedError(431, "UNSUPPORTED", "the headers are too large"))
        elif self._deadline is None and self._latest is not None and self._latest.response_complete:
            self._arm()  # the rest of a request that was answered before its end, or lines that begin none

    def on_message_begin(self) -> None:
        """Start the clock for the next request."""
        super().on_message_begin()
        self._in_headers = True
        self._arm()
        if not self.flow.write_paused:
            self._let_read()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; a trailer, which comes too late to mean anything, is passed over."""
        if self._in_headers:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Stop the clock, and hand the request on if there is room and its headers are small enough."""
        self._in_headers, self._barren = False, 0
        self._disarm()
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > self.limits.header_bytes:
            self._refuse(RequestRefusedError(431, "UNSUPPORTED", "the headers are too large"))
        elif len(self.connections) > self.limits.connections:
            self._refuse(unavailable("too many connections: try again later"))
        else:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        self._barren = 0
        super().on_body(body)

    def pause_writing(self) -> None:
        """Start the clock for a client that does not read."""
        super().pause_writing()
        self._expect_reading()

    def resume_writing(self) -> None:
        """Stop it."""
        self._let_read()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP in the specification's form."""
        self._refuse(RequestRefusedError(400, "UNSUPPORTED", msg))

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        async def answer(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
            try:
                await app(scope, receive, send)
            finally:  # a connection that is closed now still lives until what was written is read
                self._expect_reading()

        super()._start_asgi_task(cycle, answer)

    @property
    def _latest(self) -> RequestResponseCycle | None:
        return self.cycle  # None before the first request, though uvicorn's annotation does not say so

    def _arm(self) -> None:
        self._disarm()
        self._deadline = self.loop.call_later(self.limits.header_seconds, self._too_late)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _expect_reading(self) -> None:
        """Start the clock for a client that has still to read something."""
        self._let_read()
        if self.transport.get_write_buffer_size():
            self._unread = self.loop.call_later(self.limits.idle, self._give_up)

    def _let_read(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _give_up(self) -> None:
        self._unread = None
        if self.transport.get_write_buffer_size():
            self.transport.abort()

    def _too_late(self) -> None:
        self._deadline = None
        if self._in_headers or self._latest is None:
            self._refuse(RequestRefusedError(408, "UNSUPPORTED", "the request's headers took too long"))
        else:
            self.transport.close()

    def _refuse(self, error: RequestRefusedError) -> None:
        """Answer once, outside of any request, and hang up; in the middle of an answer just hang up."""
        self._disarm()
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
