"""Hosts that remember what was sent to them: a relay before the index's server, and a stranger."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from crossmount.testing.acceptor import Acceptor

PIECE = 64 * 1024


@dataclass(slots=True, eq=False)
class Relay:
    """The address in the place of a server's.

    Attributes:
        socket: the server's unix socket.
        lasts: how many pieces it forwards to the server before it ends; None never ends.
        then: what it does after them: `gone` closes all connections and the port, `silent` forwards no more.
        sent: all that was sent to the server.
    """

    socket: Path
    lasts: int | None
    then: Literal["gone", "silent"]
    port: int = 0
    sent: bytearray = field(default_factory=bytearray)
    acceptor: Acceptor | None = None
    is_over: bool = False

    def url(self, login: tuple[str, str] | None = None) -> str:
        """Return the index's URL, with a login if one is given."""
        user = "" if login is None else f"{login[0]}:{quote(login[1], safe='')}@"
        return f"redis://{user}127.0.0.1:{self.port}/0"

    async def forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward a connection."""
        far_reader, far_writer = await asyncio.open_unix_connection(str(self.socket))
        back = asyncio.create_task(self._copy(far_reader, writer, counts=False))
        try:
            await self._copy(reader, far_writer, counts=True)
        finally:
            back.cancel()
            far_writer.transport.abort()
            await asyncio.gather(back, return_exceptions=True)

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, counts: bool) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(PIECE):
                if counts:
                    self.sent += data
                    await self._count()
                if self.is_over and self.then == "gone":
                    return
                if not self.is_over:
                    writer.write(data)
                    await writer.drain()

    async def _count(self) -> None:
        if self.lasts is None:
            return
        self.lasts -= 1
        if self.lasts < 0 and not self.is_over:
            self.is_over = True
            if self.then == "gone" and self.acceptor is not None:
                await self.acceptor.refuse()
                self.acceptor.cut()


@asynccontextmanager
async def relaying(
    socket: Path, *, lasts: int | None = None, then: Literal["gone", "silent"] = "gone"
) -> AsyncIterator[Relay]:
    """Run a relay."""
    relay = Relay(socket, lasts, then)
    async with Acceptor(relay.forward) as relay.acceptor:
        relay.port = await relay.acceptor.open()
        yield relay


_TOKEN = b'{"token": "token-of-the-stranger"}'


@dataclass(slots=True, eq=False)
class Stranger:
    """A host that no secret is for. It answers each request with a token.

    Attributes:
        received: all that was sent to it.
    """

    port: int = 0
    received: bytearray = field(default_factory=bytearray)

    @property
    def url(self) -> str:
        """Its URL, on a loopback address other than the registry's."""
        return f"http://127.0.0.2:{self.port}"

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer on a connection."""
        while data := await reader.read(PIECE):
            self.received += data
            if data.endswith(b"\r\n\r\n"):
                head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
                writer.write(head % len(_TOKEN) + _TOKEN)


@asynccontextmanager
async def listening() -> AsyncIterator[Stranger]:
    """Run a stranger."""
    stranger = Stranger()
    async with Acceptor(stranger.answer) as acceptor:
        stranger.port = await acceptor.open("127.0.0.2")
        yield stranger
