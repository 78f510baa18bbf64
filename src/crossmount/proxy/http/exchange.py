"""One request and its answer over ASGI, with deadlines on a client that neither sends nor reads.

Reading waits for the client, writing waits until it has read: whoever copies from one side to the other is slowed
to the slower of the two.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

from crossmount.proxy.http.errors import ClientGoneError, RequestRefusedError, plain_headers
from crossmount.proxy.http.headers import is_well_formed
from crossmount.registry.auth.scope import Scope

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


_WHOLE = 3
_PASSED_OVER_MAX = 16 * 1024 * 1024


class Exchange:
    """A request, and the answer as it is written.

    Attributes:
        headers: the request's, names in lower case.
        status: of the answer, 0 while there is none.
        received: bytes of the request's body so far.
        sent: bytes of the answer's body so far.
        scopes: what a challenge is for that names no scope itself.
        caller: who asks, for the access log: nothing that was sent, which may be a secret.
        waited: seconds that another's upload was waited for.
        note: what the proxy did, for the access log: `mounted`, `spooled` …
    """

    def __init__(self, scope: Message, receive: Receive, send: Send, *, idle: float) -> None:
        self.method: str = scope["method"]
        self.raw_path: bytes = scope["raw_path"]
        self.query: bytes = scope["query_string"]
        self.headers: list[tuple[bytes, bytes]] = list(scope["headers"])
        self.scheme: str = scope["scheme"]
        self.peer: str = (scope.get("client") or ("-", 0))[0]
        self.status = 0
        self.received = 0
        self.sent = 0
        self.caller = ""
        self.waited = 0.0
        self.note = ""
        self.scopes: tuple[Scope, ...] = ()
        self._receive = receive
        self._send = send
        self._idle = idle
        self._body_ended = False
        self._hang_up: asyncio.Task[None] | None = None

    def header(self, name: bytes) -> str | None:
        """Return a header's first value."""
        return next((value.decode("latin-1") for key, value in self.headers if key == name), None)

    def values(self, name: bytes) -> list[bytes]:
        """Return all values of a header."""
        return [value for key, value in self.headers if key == name]

    @property
    def content_length(self) -> int | None:
        """The length that the request announces; 0 if it has no body, None if it is sent in chunks."""
        if self.values(b"transfer-encoding"):
            return None
        return int(self.header(b"content-length") or 0)

    async def body(self) -> AsyncIterator[bytes]:
        """Yield the request's body as it comes.

        Raises:
            ClientGoneError: the client hung up.
            RequestRefusedError: the client was silent past its deadline.
        """
        while not self._body_ended:
            try:
                async with asyncio.timeout(self._idle):
                    message = await self._receive()
            except TimeoutError:
                raise RequestRefusedError(
                    408, "BLOB_UPLOAD_INVALID", f"no byte came for {self._idle:g} seconds", close=True
                ) from None
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            self._body_ended = not message.get("more_body", False)
            data: bytes = message.get("body", b"")
            if data:
                self.received += len(data)
                yield data

    async def read(self, limit: int) -> bytes:
        """Return the whole body, which must be here within a few times the deadline on silence.

        Raises:
            RequestRefusedError: it has more than `limit` bytes, or comes too slowly.
        """
        try:
            async with asyncio.timeout(_WHOLE * self._idle):
                return await self._read(limit)
        except TimeoutError:
            raise RequestRefusedError(408, "UNSUPPORTED", "the body comes too slowly", close=True) from None

    async def _read(self, limit: int) -> bytes:
        too_large = RequestRefusedError(413, "SIZE_INVALID", f"more than {limit} bytes", close=True)
        content = bytearray()
        announced = self.content_length or 0
        async for data in self.body():
            content += data
            if max(announced, len(content)) > limit:
                await self._pass_over(_PASSED_OVER_MAX)
                raise too_large
        return bytes(content)

    async def _pass_over(self, limit: int) -> None:
        """Read on for a while: hanging up on a client that still sends would lose it the answer."""
        until = self.received + limit
        async for _ in self.body():
            if self.received > until:
                return

    async def start(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Begin the answer; headers that no client could read are left out."""
        self.status = status
        sent = [pair for pair in headers if is_well_formed(*pair)]
        await self._deliver({"type": "http.response.start", "status": status, "headers": sent})

    async def write(self, data: bytes, *, more: bool = True) -> None:
        """Send some of the answer's body; the last of it with `more` false.

        Raises:
            ClientGoneError: the client hung up, or doesn't read.
        """
        if self._hang_up is not None and self._hang_up.done():
            raise ClientGoneError
        self.sent += len(data)
        await self._deliver({"type": "http.response.body", "body": data, "more_body": more})

    async def answer(self, status: int, headers: Iterable[tuple[bytes, bytes]] = (), body: bytes = b"") -> None:
        """Send a whole answer of the proxy's own."""
        own = plain_headers(len(body))
        if status == 204:
            own = [pair for pair in own if pair[0] != b"content-length"]
        given = list(headers)
        names = {name for name, _ in given}
        await self.start(status, [*(pair for pair in own if pair[0] not in names), *given])
        await self.write(body, more=False)

    async def refuse(self, error: RequestRefusedError) -> None:
        """Send a whole answer that says no."""
        body = error.body()
        await self.start(error.status, error.answer_headers(len(body)))
        await self.write(b"" if self.method == "HEAD" else body, more=False)

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Notice a client that hangs up while the answer is written; what is left of its body is passed over."""
        self._hang_up = asyncio.create_task(self._until_gone())
        try:
            yield
        finally:
            self._hang_up.cancel()
            await asyncio.gather(self._hang_up, return_exceptions=True)
            self._hang_up = None

    async def _until_gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def _deliver(self, message: Message) -> None:
        try:
            async with asyncio.timeout(self._idle):
                await self._send(message)
        except TimeoutError:
            raise ClientGoneError from None
