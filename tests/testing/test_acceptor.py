"""The acceptor of tests' servers: however it closes, no connection stays open."""

import asyncio
import contextlib
import gc
import socket
import ssl
import threading
from pathlib import Path

import pytest

from crossmount.testing.acceptor import Acceptor
from support.certificates import self_signed
from support.waiting import until

TIMES = 20


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send back what comes."""
    while data := await reader.read(100):
        writer.write(data)
        await writer.drain()


@pytest.mark.parametrize("hello", [b"", b"\x16\x03\x01"])
@pytest.mark.parametrize("tls", [False, True])
def test_a_client_that_comes_at_the_end_is_closed(tmp_path: Path, *, tls: bool, hello: bytes) -> None:
    """A connection that is accepted, or whose handshake goes on, while the acceptor closes does not stay open."""
    context = self_signed(tmp_path)[0] if tls else None
    clients: list[socket.socket] = []

    async def close_at_once() -> None:
        async with Acceptor(echo, tls=context) as acceptor:
            address = ("127.0.0.1", await acceptor.open())
            loop, came = asyncio.get_running_loop(), asyncio.Event()

            def come() -> None:
                clients.extend(socket.create_connection(address) for _ in range(3))
                for client in clients:
                    client.sendall(hello)
                loop.call_soon_threadsafe(came.set)

            thread = threading.Thread(target=come)
            thread.start()
            await came.wait()
        thread.join()

    for _ in range(TIMES):
        asyncio.run(close_at_once())
        gc.collect()  # pytest fails a test in which this finds an open socket
        while clients:
            with clients.pop() as client, contextlib.suppress(ConnectionError):
                while client.recv(100):
                    pass


async def test_a_connection_over_tls(tmp_path: Path) -> None:
    """More than any buffer holds goes both ways over TLS, and a client that speaks no TLS is closed."""
    context, authority = self_signed(tmp_path)
    data = bytes(range(256)) * 10_000
    async with Acceptor(echo, tls=context) as acceptor:
        port = await acceptor.open()
        trusting = ssl.create_default_context(cafile=authority)
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting)
        writer.write(data)
        assert await reader.readexactly(len(data)) == data
        writer.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()


async def test_ports_close_before_connections() -> None:
    """After `refuse` no connection is accepted, and those that exist stay until `cut`."""
    async with Acceptor(echo) as acceptor:
        port = await acceptor.open()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"one")
        assert await reader.read(100) == b"one"
        await acceptor.refuse()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"two")
        assert await reader.read(100) == b"two"
        acceptor.cut()
        with contextlib.suppress(ConnectionError):
            assert await reader.read(100) == b""
        writer.close()


async def test_a_bug_of_the_server_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    """An exception that is no end of a connection goes to the event loop's handler, and the connection ends."""

    async def fail(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise LookupError(await reader.read(100), writer)

    async with Acceptor(fail) as acceptor:
        reader, writer = await asyncio.open_connection("127.0.0.1", await acceptor.open())
        writer.write(b"x")
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        writer.close()
        await until(lambda: "a connection of a test's server failed" in caplog.text)
