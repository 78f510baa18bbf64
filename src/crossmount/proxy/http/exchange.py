"""One request and its answer over ASGI, with deadlines on a client that neither sends nor reads.

Reading waits for the client to send, and writing waits for the client to read. A copy between a client and the
registry therefore runs at the speed of the slower one, and stores nothing.
"""

import asyncio
import contextlib
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from crossmount.proxy.http.errors import ClientGoneError, OverQuotaError, RequestRefusedError, plain_headers
from crossmount.proxy.http.headers import PLAIN_PATHS, ClientPaths, is_well_formed
from crossmount.registry.auth.scope import Scope

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Charge = Callable[[int, int], None]
"""Counts bytes that have arrived, and checks that as many as are announced beyond them may still come."""


_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_WHOLE_BODY_IDLES = 3
_DISCARDED_MAX = 16 * 1024 * 1024
_END: Message = {"type": "http.response.body", "body": b"", "more_body": False}


def _charge_nothing(size: int, ahead: int) -> None:
    del size, ahead


class Exchange:
    """A request, and the answer that is written to it.

    Attributes:
        method: the request's method.
        raw_path: the path, byte for byte.
        query: the query, byte for byte.
        headers: the request's headers, with names in lower case.
        scheme: `http` or `https`.
        peer: the client's IP address.
        status: the answer's status; 0 before the answer begins.
        received: bytes of the request's body so far.
        sent: bytes of the answer's body so far.
        scopes: the scopes of a challenge that names none itself.
        caller: the caller's name for the access log; never a value that was sent, which may be a secret.
        waited: seconds that the request waited for another's upload.
        note: what the proxy did, for the access log: `mounted`, `spooled` …
        charge: counts the request's body against a quota while it arrives.
        paths: how paths of the registry look to this client.
        request_id: identifies the request in logs; the client's own X-Request-ID, if it is a plain word.
        names_unknown_upstream: the request names a registry that is not behind this proxy.
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
        self.charge: Charge = _charge_nothing
        self.paths: ClientPaths = scope.get("crossmount.paths", PLAIN_PATHS)
        self.names_unknown_upstream: bool = scope.get("crossmount.unknown_upstream", False)
        given = self.header(b"x-request-id") or ""
        self.request_id = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        if self.values(b"x-request-id") != [self.request_id.encode()]:  # the registry's log has it too
            self.headers = [pair for pair in self.headers if pair[0] != b"x-request-id"]
            self.headers.append((b"x-request-id", self.request_id.encode()))
        self._receive = receive
        self._send = send
        self._idle = idle
        self._body_ended = False
        self._gone: asyncio.Task[None] | None = None

    def header(self, name: bytes) -> str | None:
        """Return the first value of a header; None if the request does not have it."""
        return next((value.decode("latin-1") for key, value in self.headers if key == name), None)

    def values(self, name: bytes) -> list[bytes]:
        """Return all values of a header."""
        return [value for key, value in self.headers if key == name]

    @property
    def content_length(self) -> int | None:
        """The length of the request's body: 0 without a body, None if it is sent in chunks."""
        if self.values(b"transfer-encoding"):
            return None
        return int(self.header(b"content-length") or 0)

    async def body(self) -> AsyncIterator[bytes]:
        """Yield the request's body as it arrives.

        Raises:
            ClientGoneError: the client closed the connection.
            RequestRefusedError: the client sent nothing before its deadline, or more than its quota.
        """
        announced = self.content_length or 0
        if not self._body_ended:
            self.charge(0, max(0, announced - self.received))
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
                self.charge(len(data), max(0, announced - self.received))
                yield data

    async def skip_body(self) -> None:
        """Read and discard the rest of the body, also beyond a quota: some clients read no answer earlier."""
        begun, charge, self.charge = self.received, self.charge, _charge_nothing
        async for _ in self.body():
            pass
        with contextlib.suppress(OverQuotaError):
            charge(self.received - begun, 0)

    async def read(self, limit: int) -> bytes:
        """Return the whole body, which must arrive within three times the deadline on silence.

        Raises:
            RequestRefusedError: it has more than `limit` bytes, or arrives too slowly.
        """
        try:
            async with asyncio.timeout(_WHOLE_BODY_IDLES * self._idle):
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
                await self._discard(_DISCARDED_MAX)
                raise too_large
        return bytes(content)

    async def _discard(self, limit: int) -> None:
        """Discard up to `limit` bytes: a client that is still sending would lose the answer on a close."""
        until = self.received + limit
        async for _ in self.body():
            if self.received > until:
                return

    async def start(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Begin the answer; headers that are not well-formed are left out."""
        await self._deliver(self._head(status, headers))

    async def send_head(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Send a whole answer that has no body."""
        await self._deliver(self._head(status, headers), _END)

    def _head(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> Message:
        self.status = status
        sent = [pair for pair in self.paths.rewritten(headers) if is_well_formed(*pair)]
        sent = [pair for pair in sent if pair[0] != b"x-request-id"]
        sent.append((b"x-request-id", self.request_id.encode()))
        return {"type": "http.response.start", "status": status, "headers": sent}

    async def write(self, data: bytes, *, more: bool = True) -> None:
        """Send a piece of the answer's body, the last one with `more=False`.

        Raises:
            ClientGoneError: the client closed the connection, or does not read.
        """
        if self._gone is not None and self._gone.done():
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
        """Send an error as a whole answer."""
        body = error.body()
        await self.start(error.status, error.answer_headers(len(body)))
        await self.write(b"" if self.method == "HEAD" else body, more=False)

    @contextlib.asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Notice a client that closes the connection during the answer; the rest of its body is discarded."""
        self._gone = asyncio.create_task(self._until_gone())
        try:
            yield
        finally:
            self._gone.cancel()
            await asyncio.gather(self._gone, return_exceptions=True)
            self._gone = None

    async def _until_gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def _deliver(self, *messages: Message) -> None:
        try:
            async with asyncio.timeout(self._idle):
                for message in messages:
                    await self._send(message)
        except TimeoutError:
            raise ClientGoneError from None
