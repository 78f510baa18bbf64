"""HTTP towards clients: uvicorn's protocol on httptools, with a limit and a deadline on a request's headers.

uvicorn has neither for this parser: a client could send headers for ever, fast or slowly. Bodies have their
deadline in `exchange`.
"""

import asyncio
import json
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from crossmount.proxy.settings import Limits


def protocol_with(limits: Limits) -> type[HttpToolsProtocol]:
    """Return the protocol's class, held to these limits."""
    return type("BoundProtocol", (BoundedProtocol,), {"limits": limits})


class BoundedProtocol(HttpToolsProtocol):
    """One connection.

    Attributes:
        limits: what it is held to; set by `protocol_with`.
    """

    limits = Limits()

    def __init__(self, *args: Any, **details: Any) -> None:
        super().__init__(*args, **details)
        self._deadline: asyncio.TimerHandle | None = None
        self._in_headers = False
        self._header_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Start the clock: a connection is made to ask something."""
        super().connection_made(transport)
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse, and count what belongs to headers that have not ended."""
        super().data_received(data)
        if self._in_headers:
            self._header_bytes += len(data)
            if self._header_bytes > self.limits.header_bytes:
                self._refuse(b"431 Request Header Fields Too Large", "the headers are too large")

    def on_message_begin(self) -> None:
        """Start the clock for the next request."""
        super().on_message_begin()
        self._in_headers, self._header_bytes = True, 0
        self._arm()

    def on_headers_complete(self) -> None:
        """Stop the clock, and hand the request on if its headers are small enough."""
        self._in_headers = False
        self._disarm()
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > self.limits.header_bytes:
            self._refuse(b"431 Request Header Fields Too Large", "the headers are too large")
            return
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP in the specification's form."""
        self._refuse(b"400 Bad Request", msg)

    def _arm(self) -> None:
        self._disarm()
        self._deadline = self.loop.call_later(self.limits.header_seconds, self._too_late)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_late(self) -> None:
        self._refuse(b"408 Request Timeout", "the request's headers took too long")

    def _refuse(self, status: bytes, message: str) -> None:
        """Answer once, outside of any request, and hang up."""
        self._disarm()
        if self.transport.is_closing():
            return
        body = json.dumps({"errors": [{"code": "UNSUPPORTED", "message": message, "detail": None}]}).encode()
        self.transport.write(
            b"HTTP/1.1 " + status + b"\r\ncontent-type: application/json\r\nconnection: close\r\n"
            b"content-length: " + str(len(body)).encode() + b"\r\n\r\n" + body
        )
        self.transport.close()
