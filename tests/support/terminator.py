"""TLS in front of a server without TLS, like stunnel; it requires client certificates."""

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from crossmount.testing.acceptor import Acceptor
from support.certificates import Authority, Issued
from support.waiting import PATIENCE


@contextmanager
def terminated(backend: Path, authority: Authority, own: Issued) -> Iterator[int]:
    """Run it in front of a unix socket; yield its port.

    Args:
        backend: the server's socket.
        authority: the required issuer of client certificates.
        own: its own certificate.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=authority.file)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(own.certificate, own.key)
    started: Future[tuple[int, asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def serve() -> None:
        stopped = asyncio.Event()
        async with Acceptor(partial(_carry, backend), tls=context) as acceptor:
            started.set_result((await acceptor.open(), asyncio.get_running_loop(), stopped))
            await stopped.wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    port, loop, stopped = started.result(PATIENCE)
    try:
        yield port
    finally:
        loop.call_soon_threadsafe(stopped.set)
        thread.join()


async def _carry(backend: Path, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Forward bytes both ways until one end closes."""
    there, back = await asyncio.open_unix_connection(str(backend))  # without the server this connection ends too
    pumps = [asyncio.create_task(_pump(reader, back)), asyncio.create_task(_pump(there, writer))]
    try:
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for pump in pumps:
            pump.cancel()
        back.transport.abort()
        await asyncio.gather(*pumps, return_exceptions=True)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while piece := await reader.read(65536):
            writer.write(piece)
            await writer.drain()
