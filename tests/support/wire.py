"""Raw bytes on connections: requests and answers that no HTTP library would send."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from crossmount.testing.acceptor import Acceptor
from support.waiting import PATIENCE

HEAD_END = b"\r\n\r\n"


async def raw(address: tuple[str, int], *parts: bytes, wait: bool = True) -> bytes:
    """Send bytes, and return all received bytes until the other side closes."""
    reader, writer = await asyncio.open_connection(*address)
    try:
        for part in parts:
            writer.write(part)
            with contextlib.suppress(ConnectionError):
                await writer.drain()
        if not wait:
            return b""
        with contextlib.suppress(ConnectionError):
            return await asyncio.wait_for(reader.read(), PATIENCE)
        return b"reset"
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


@asynccontextmanager
async def answering(*answers: bytes | Iterable[bytes], seen: list[bytes] | None = None) -> AsyncIterator[str]:
    """Yield the URL of a server that answers each request with the next of these; the last is repeated.

    The heads of the requests are added to `seen`.
    An answer in several parts is sent part by part, and then the connection is closed.
    """
    answered = 0

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal answered
        while head := await reader.readuntil(HEAD_END):
            await reader.readexactly(_announced(head))
            if seen is not None:
                seen.append(head)
            answer = answers[min(answered, len(answers) - 1)]
            answered += 1
            for part in (answer,) if isinstance(answer, bytes) else answer:
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(0)  # drain does not yield while the buffer has room
            if not isinstance(answer, bytes):
                break

    async with Acceptor(converse) as acceptor:
        yield f"http://127.0.0.1:{await acceptor.open()}"


def _announced(head: bytes) -> int:
    """Return the Content-Length of a request."""
    lines = (line.partition(b":") for line in head.lower().splitlines())
    return next((int(value) for name, _, value in lines if name == b"content-length"), 0)
