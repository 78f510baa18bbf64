"""Connections to real sockets: several addresses, a close while somebody waits, time-outs, and TLS in parts."""

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from crossmount.registry.http.channels import Channel, TlsChannel
from crossmount.registry.http.socket_waiter import SocketWaiter
from crossmount.registry.http.streams import NetworkStream, connect
from crossmount.registry.http.tls import os_reason, tls_error
from crossmount.testing.acceptor import Acceptor
from support.certificates import self_signed


@asynccontextmanager
async def echo() -> AsyncIterator[int]:
    """Serve connections that send back what they receive; yield the port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1000):
            writer.write(data)
            await writer.drain()

    async with Acceptor(serve, limit=4096) as acceptor:
        yield await acceptor.open()


async def test_the_address_of_a_host_that_answers_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host whose first address refuses connections is reached at its second one."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # nobody listens there
        async with echo() as port:
            found = [
                (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", at))
                for at in (closed.getsockname()[1], port)
            ]

            async def look_up(*_: Any, **__: Any) -> list[Any]:
                return found

            monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", look_up)
            stream = await connect("registry.test", port, timeout=None)
            await stream.write(b"ping", timeout=None)
            assert await stream.read(timeout=None) == b"ping"
            stream.close()


async def test_a_host_whose_addresses_fail_in_several_ways_has_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a host whose addresses are unreachable for different reasons, one reason of the system is told."""

    async def look_up(*_: Any, **__: Any) -> list[Any]:
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", address)
            for address in (("127.0.0.1", 1), ("255.255.255.255", 1))
        ]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", look_up)
    with pytest.raises(httpx.ConnectError) as caught:
        await connect("registry.test", 1, timeout=None)
    assert os_reason(caught.value) == "connection refused"


@pytest.mark.parametrize("host", [f"{'a' * 64}.test", "a..test", "."])
async def test_a_name_that_no_host_can_have_is_not_found(host: str) -> None:
    """A name with a label that is empty or too long is a host that cannot be found, as any other."""
    with pytest.raises(httpx.ConnectError) as caught:
        await connect(host, 80, timeout=None)
    assert "no such host" in os_reason(caught.value)


async def test_the_beginning_of_an_answer_is_reported_once() -> None:
    """Who asked is called once, when the final answer begins and not at an interim one: it ends a longer wait."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for part in (b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 200 OK\r\n", b"\r\n"):
            await reader.readline()
            writer.write(part)

    answers: list[bytes] = []
    received = b""
    async with Acceptor(serve) as acceptor:
        stream = await connect("127.0.0.1", await acceptor.open(), timeout=None)
        stream.start_request(lambda: answers.append(received))
        for _ in range(3):
            await stream.write(b"next\r\n", timeout=None)
            received += await stream.read(timeout=None)
        stream.close()
    assert answers == [b"HTTP/1.1 100 Continue\r\n\r\n"]


async def test_a_connection_that_is_closed_ends_what_waits_for_it() -> None:
    """A read that waits when its connection is closed fails, and so does each later one."""
    async with echo() as port:
        stream = await connect("127.0.0.1", port, timeout=None)
        reading = asyncio.create_task(stream.read(timeout=None))
        await asyncio.sleep(0)
        stream.close()
        with pytest.raises(httpx.ReadError):
            await reading
        with pytest.raises(httpx.ReadError):
            await stream.read(timeout=None)
        assert not stream.is_quiet  # so it is not used again


async def test_a_silent_server_ends_a_read_and_a_handshake() -> None:
    """A read and a handshake end when their time is over, and the failed handshake closes the connection."""
    async with echo() as port:
        stream = await connect("127.0.0.1", port, timeout=None)
        with pytest.raises(httpx.ReadTimeout):
            await stream.read(timeout=0.01)
        stream.close()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        stream = await connect("127.0.0.1", silent.getsockname()[1], timeout=None)
        with pytest.raises(httpx.ConnectTimeout, match="no answer to the TLS handshake in time"):
            await stream.start_tls(ssl.create_default_context(), "x", timeout=0.01)
        assert not stream.is_quiet


async def test_a_full_connection_ends_a_write() -> None:
    """A write that a server does not read ends when its time is over."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        stream = await connect("127.0.0.1", silent.getsockname()[1], timeout=None)
        with pytest.raises(httpx.WriteTimeout):
            await stream.write(bytes(50_000_000), timeout=0.01)
        stream.close()


class Narrow(Channel):
    """A channel that takes a few bytes at a time, and has received what it is given.

    Args:
        room: the most bytes that each call takes; falls to none.
    """

    def __init__(self, *room: int) -> None:
        self.room = list(room)
        self.sent = bytearray()

    def send(self, data: memoryview) -> int:
        """Take some bytes."""
        taken = min(len(data), self.room.pop(0)) if self.room else 0
        self.sent += data[:taken]
        return taken

    def flush(self) -> bool:
        """Return True."""
        return True

    def receive(self, size: int) -> bytes | None:
        """Return that there is nothing yet."""
        del size
        return None


class Ended(Narrow):
    """A channel whose end has come, while the socket below is open: TLS has an end of its own."""

    def receive(self, size: int) -> bytes | None:
        """Return the end."""
        del size
        return b""


class Reset(Narrow):
    """A channel that the peer has reset."""

    def receive(self, size: int) -> bytes | None:
        """Fail."""
        del size
        raise ConnectionResetError(errno.ECONNRESET, "reset")


def test_a_reset_below_tls_is_no_failure_of_tls() -> None:
    """A reset in the handshake or after it is told as one, and not as a failure of TLS, which nobody repeats."""
    tls = TlsChannel(Reset(100_000), ssl.create_default_context(), "x")
    for use in (tls.shake_hands, lambda: tls.receive(1)):
        with pytest.raises(ConnectionResetError) as caught:
            use()
        assert tls_error(caught.value) is None


async def test_a_server_that_hangs_up_in_the_handshake_is_told() -> None:
    """A handshake that is cut names no certificate, and may be repeated."""

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del writer
        await reader.read(10_000)

    async with Acceptor(hang_up) as acceptor:
        stream = await connect("127.0.0.1", await acceptor.open(), timeout=None)
        with pytest.raises(httpx.ConnectError, match="cut in the TLS handshake") as caught:
            await stream.start_tls(ssl.create_default_context(), "x", timeout=None)
        assert tls_error(caught.value) is None


async def test_a_connection_that_has_ended_is_not_used_again() -> None:
    """After the end of TLS a connection is not quiet, so that it is dropped, although its socket is not."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        stream = NetworkStream(SocketWaiter(ours), Ended(100))
        assert stream.is_quiet
        await stream.write(b"request", timeout=None)
        assert await stream.read(timeout=None) == b""
        assert not stream.is_quiet


def test_encrypted_bytes_go_on_where_they_were_stopped() -> None:
    """TLS that a full channel stops in the middle goes on there: each byte is sent once, in order."""
    below = Narrow()
    tls = TlsChannel(below, ssl.create_default_context(), "x")
    assert not tls.shake_hands()
    assert below.sent == b""
    assert tls.send(memoryview(b"data")) == 0
    below.room = [5, 0]
    assert not tls.flush()
    below.room = [7, 100_000]
    assert tls.flush()
    client_hello = bytes(below.sent)
    assert client_hello[:2] == b"\x16\x03"
    assert int.from_bytes(client_hello[3:5], "big") == len(client_hello) - 5  # one whole record


def test_a_negotiation_below_waits_for_bytes() -> None:
    """TLS over a channel that negotiates waits for bytes too, until that takes some again: it does not spin."""
    below = Narrow()
    below.wants_bytes = True
    tls = TlsChannel(below, ssl.create_default_context(), "x")
    assert not tls.shake_hands()
    assert tls.send(memoryview(b"data")) == 0
    assert tls.wants_bytes
    below.wants_bytes = False
    assert tls.send(memoryview(b"data")) == 0
    assert not tls.wants_bytes


async def test_a_closed_socket_is_not_waited_for() -> None:
    """The number of a closed socket is not given to the event loop: it may be another socket's."""
    ours, theirs = socket.socketpair()
    number, waiter = ours.fileno(), SocketWaiter(ours)
    waiter.close()
    os.dup2(theirs.fileno(), number)
    with theirs, socket.socket(fileno=number), pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        await waiter.wait(reading=True, writing=False)


def test_a_negotiation_in_the_middle_waits_for_bytes() -> None:
    """While TLS negotiates, nothing is taken, and the channel says that it waits for bytes."""
    tls = TlsChannel(Narrow(100_000), ssl.create_default_context(), "x")
    assert not tls.shake_hands()
    assert tls.send(memoryview(b"data")) == 0
    assert tls.wants_bytes
    assert tls.receive(10) is None
    assert not tls.holds_bytes


async def test_a_server_that_chooses_a_protocol_is_told_http_1(tmp_path: Path) -> None:
    """TLS offers HTTP/1.1 (ALPN, RFC 7301): some servers speak nothing to a client that names no protocol."""
    context, authority = self_signed(tmp_path)
    context.set_alpn_protocols(["h2", "http/1.1"])
    chosen: list[str | None] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        chosen.append(writer.get_extra_info("ssl_object").selected_alpn_protocol())
        writer.write(b"seen")
        await reader.read()

    async with Acceptor(serve, tls=context) as acceptor:
        stream = await connect("127.0.0.1", await acceptor.open(), timeout=None)
        trust = ssl.create_default_context(cafile=authority)
        encrypted = await stream.start_tls(trust, "127.0.0.1", timeout=None)
        assert await encrypted.read(timeout=None) == b"seen"
        encrypted.close()
    assert chosen == ["http/1.1"]
