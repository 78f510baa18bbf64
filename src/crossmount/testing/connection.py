"""One HTTP/1.1 connection: h11 over asyncio streams; a script can cut it at any byte."""

import asyncio
import contextlib
from typing import Self
from urllib.parse import parse_qsl, unquote, urlsplit

import h11

from crossmount.testing.storage import PIECE
from crossmount.testing.values import Request, Response

DRAIN_BYTES = 256 * 1024
"""Maximum bytes of an unread body to read before the answer; after a longer body the connection closes."""

LINGER_SECONDS = 0.5
"""How long a client may continue to send after an answer that closes the connection."""

HEAD_BYTES = 64 * 1024


class CutError(Exception):
    """The script cuts the connection at this point."""


class GoneError(Exception):
    """The client closed the connection, or does not speak HTTP."""


class IncomingBody:
    """The body of the current request; the first read asks for it (100 Continue).

    Attributes:
        received: number of bytes read so far.
    """

    def __init__(self, connection: "Connection", *, cut_after: int | None = None) -> None:
        self._connection = connection
        self._cut_after = cut_after
        self.received = 0

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if self._cut_after is not None and self.received >= self._cut_after:
            raise CutError
        data = await self._connection.receive()
        if data is None:
            raise StopAsyncIteration
        if self._cut_after is not None:
            data = data[: self._cut_after - self.received]
        self.received += len(data)
        return data


class Connection:
    """A client's connection.

    Attributes:
        number: its number, counted from 1.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        self._reader = reader
        self._writer = writer
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES)
        self.number = number

    async def request(self) -> Request | None:
        """Wait for the next request.

        Returns:
            Its head; None when the client has closed the connection.

        Raises:
            GoneError: what came is no HTTP.
        """
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
        if self._http.our_state is not h11.IDLE:
            return None
        event = await self._event()
        return _read_head(event) if isinstance(event, h11.Request) else None

    async def receive(self) -> bytes | None:
        """Return the next piece of the body, None at its end.

        Raises:
            GoneError: the client closed the connection before the end of the body.
        """
        if self._http.their_state is not h11.SEND_BODY:
            return None
        if self._http.they_are_waiting_for_100_continue:
            self._write(h11.InformationalResponse(status_code=100, headers=[]))
        event = await self._event()
        return bytes(event.data) if isinstance(event, h11.Data) else None

    async def send(self, response: Response, *, is_head: bool, cut_after: int | None = None) -> None:
        """Send an answer.

        Args:
            response: the answer, with all headers.
            is_head: whether to omit the body.
            cut_after: number of bytes of the body after which the connection is cut.

        Raises:
            CutError: `cut_after` bytes were sent.
        """
        headers = list(response.headers)
        if not await self._drain():
            headers.append(("Connection", "close"))
        self._write(h11.Response(status_code=response.status, headers=headers))
        left = cut_after
        for piece in () if is_head else response.chunks():
            data = piece if left is None else piece[:left]
            self._write(h11.Data(data=data))
            await self._writer.drain()
            if left is not None:
                left -= len(data)
                if left <= 0:
                    break
        if cut_after is not None:
            raise CutError
        try:
            self._write(h11.EndOfMessage())
        except h11.LocalProtocolError:
            # The body was shorter than its Content-Length: a blob's file shrank, or a fault changed the header.
            raise CutError from None
        await self._writer.drain()

    async def close(self) -> None:
        """Close the connection after the client has received the answer."""
        with contextlib.suppress(OSError, TimeoutError):
            if self._http.their_state is h11.SEND_BODY:
                if self._writer.can_write_eof():
                    self._writer.write_eof()
                async with asyncio.timeout(LINGER_SECONDS):
                    while await self._reader.read(PIECE):
                        pass
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    def abort(self) -> None:
        """Cut the connection now."""
        self._writer.transport.abort()

    async def refuse(self) -> None:
        """Send a 400 to a client that does not speak HTTP, if an answer is still possible."""
        if self._http.our_state is h11.IDLE:
            headers = [("Connection", "close"), ("Content-Length", "0")]
            self._write(h11.Response(status_code=400, headers=headers))
            with contextlib.suppress(OSError):
                await self._writer.drain()

    async def _drain(self) -> bool:
        """Read the rest of the body, up to a limit; return whether the connection can be used again."""
        if self._http.they_are_waiting_for_100_continue:
            return False
        left = DRAIN_BYTES
        while left > 0:
            data = await self.receive()
            if data is None:
                return True
            left -= len(data)
        return False

    async def _event(self) -> object:
        """Return the next event of h11."""
        try:
            while True:
                event = self._http.next_event()
                if event is not h11.NEED_DATA:
                    return event
                self._http.receive_data(await self._reader.read(PIECE))
        except (h11.RemoteProtocolError, OSError) as error:
            raise GoneError(str(error)) from error

    def _write(self, event: h11.Event) -> None:
        data = self._http.send(event)
        if data:
            self._writer.write(data)


def _read_head(event: h11.Request) -> Request:
    parts = urlsplit(event.target.decode("ascii"))
    return Request(
        event.method.decode("ascii"),
        unquote(parts.path),
        tuple(parse_qsl(parts.query, keep_blank_values=True)),
        {name.decode("ascii"): value.decode("latin-1") for name, value in event.headers},
        parts.query,
    )
