"""Connections on non-blocking sockets, awaited with asyncio. They notice an answer while a body is sent.

A gateway that refuses an upload answers as soon as it has read the headers, and hangs up soon after (RFC 9110,
15.5.14; RFC 9112, 9.5). An answer that is looked for only after the body is lost by then. `NetworkStream`
looks for it before each part of a body and while it waits to send one, and ends the body when a refusal comes.
Interim answers (1xx) do not end it, and too many are an error.

Errors are httpx's.
"""
# ruff: noqa: ASYNC109 each step of a request has its own time-out, which httpx hands on as a number

import asyncio
import re
import select
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import aiohappyeyeballs
import httpx

from crossmount.registry.http.answer_heads import AnswerHeads
from crossmount.registry.http.channels import READ_BYTES, Channel, SocketChannel, TlsChannel
from crossmount.registry.http.socket_waiter import SocketWaiter
from crossmount.registry.http.tls import NO_HANDSHAKE

NEXT_ADDRESS_SECONDS = 0.25
"""How long one of a host's addresses is tried alone before the next one is tried beside it (RFC 8305, 5)."""

_NUMBER = re.compile(r"\[Errno (\d+)\]")


class NetworkStream:
    """Reads and writes a connection, and waits on the event loop. Notices an answer while a body is sent.

    Args:
        waiter: waits for the socket.
        channel: what is sent and received over it.
    """

    def __init__(self, waiter: SocketWaiter, channel: Channel) -> None:
        self._waiter = waiter
        self._channel = channel
        self.start_request()

    def start_request(self, on_answer: Callable[[], None] | None = None) -> None:
        """Forget the answer before; call `on_answer` when the final answer to the next request begins."""
        self._heads = AnswerHeads()
        self._on_answer = on_answer
        self._buffer = bytearray()
        self._is_at_end = False
        self._failure: Exception | None = None
        self._unwritable: OSError | None = None

    async def write(self, data: bytes, *, timeout: float | None, is_body: bool = False) -> None:
        """Write bytes.

        Args:
            data: the bytes.
            timeout: the most seconds that they may take; None sets no limit.
            is_body: whether an answer may have come before them.

        Raises:
            httpx.WriteError: the connection failed, or an answer came before all bytes were written.
            httpx.WriteTimeout: they took too long.
            httpx.ConnectError: TLS failed.
        """
        try:
            if is_body:
                await asyncio.sleep(0)  # a connection that is always ready would let nobody else run
                self._look_for_answer()
            left = self._send(memoryview(data))
            if left is not None:
                async with asyncio.timeout(timeout):
                    await self._send_all(left)
        except OSError as error:
            if not isinstance(error, ssl.SSLError):
                self._unwritable = error
            raise _translated(error, httpx.WriteError, httpx.WriteTimeout) from error

    async def _send_all(self, left: memoryview | None) -> None:
        while left is not None:
            writing = not self._channel.wants_bytes
            await self._waiter.wait(reading=self._heads.status is None or not writing, writing=writing)
            self._look_for_answer()
            left = self._send(left)

    def _send(self, data: memoryview) -> memoryview | None:
        """Send what can be sent now; return what is left, None if all is on its way."""
        while data:
            taken = self._channel.send(data)
            if not taken:
                return data
            data = data[taken:]
        return None if self._channel.flush() else data

    def _look_for_answer(self) -> None:
        """Receive what has come, until an answer begins.

        Raises:
            httpx.WriteError: it is a refusal, or nothing more can come.
        """
        negotiates = self._channel.wants_bytes
        try:
            while not self._is_at_end and (self._heads.status is None or negotiates):
                data = self._channel.receive(READ_BYTES)
                if data is None:
                    break
                self._buffer += data
                self._is_at_end = not data
                self._heads.feed(data)
        except OSError as error:
            self._failure = _translated(error, httpx.ReadError, httpx.ReadTimeout)
            self._failure.__cause__ = error
        except httpx.RemoteProtocolError as error:  # interim answers without end
            self._failure = error
        if self._is_at_end or self._failure is not None or (self._heads.status or 0) >= 300:
            raise httpx.WriteError("the answer came before the body was sent")

    async def read(self, *, timeout: float | None) -> bytes:
        """Return bytes, b"" at the end: first those that came while a body was written.

        Raises:
            httpx.ReadError: the connection failed.
            httpx.ReadTimeout: none came for this many seconds; None sets no limit.
            httpx.ConnectError: TLS failed.
            httpx.RemoteProtocolError: there are too many interim answers, or one is too long.
        """
        if self._buffer:
            data, self._buffer = bytes(self._buffer), bytearray()
        elif self._failure is not None:
            raise self._failure
        elif self._is_at_end:
            data = b""
        else:
            data = await self._receive(timeout)
            self._heads.feed(data)
        if self._heads.status is not None and self._on_answer is not None:
            on_answer, self._on_answer = self._on_answer, None
            on_answer()
        return data

    async def _receive(self, timeout: float | None) -> bytes:
        try:
            data = self._channel.receive(READ_BYTES)
            if data is None:
                async with asyncio.timeout(timeout):
                    while data is None:
                        await self._waiter.wait(reading=True, writing=False)
                        data = self._channel.receive(READ_BYTES)
            else:
                await asyncio.sleep(0)  # as in `write`
            if not data and self._unwritable is not None:
                raise self._unwritable  # the operating system tells only the first caller why there is an end
            self._is_at_end = not data
        except OSError as error:
            raise _translated(error, httpx.ReadError, httpx.ReadTimeout) from error
        return data

    def close(self) -> None:
        """Close the connection; what waits for it fails."""
        self._waiter.close()

    async def start_tls(self, context: ssl.SSLContext, host: str, *, timeout: float | None) -> "NetworkStream":
        """Return the connection with TLS on it; close it if that fails, or if the caller is cancelled.

        Raises:
            httpx.ConnectError: TLS failed, or the connection did.
            httpx.ConnectTimeout: it took too long.
        """
        context.set_alpn_protocols(["http/1.1"])
        try:
            channel = TlsChannel(self._channel, context, host)
            async with asyncio.timeout(timeout):
                while not channel.shake_hands():
                    await self._waiter.wait(reading=True, writing=not channel.flush() and not channel.wants_bytes)
                while not channel.flush():
                    await self._waiter.wait(reading=False, writing=True)
        except BaseException as error:
            self.close()
            if isinstance(error, TimeoutError) and error.errno is None:
                raise httpx.ConnectTimeout(NO_HANDSHAKE) from error
            if isinstance(error, OSError):
                raise _translated(error, httpx.ConnectError, httpx.ConnectTimeout) from error
            if isinstance(error, ValueError):  # a proxy was asked for it without a look-up here
                raise httpx.ConnectError("no host has such a name") from error
            raise
        return NetworkStream(self._waiter, channel)

    @property
    def holds_bytes(self) -> bool:
        """Whether bytes left the operating system that nobody has read."""
        return bool(self._buffer) or self._channel.holds_bytes

    @property
    def is_quiet(self) -> bool:
        """Whether neither bytes nor the end nor an error have come: so an idle connection can be used again."""
        return not (self._is_at_end or self.holds_bytes or _is_readable(self._waiter.socket))


async def connect(host: str, port: int, *, timeout: float | None) -> NetworkStream:
    """Connect to a host, at whichever of its addresses answers first.

    Args:
        host: its name or address; an IPv6 address without brackets.
        port: the port.
        timeout: seconds; None sets no limit.

    Raises:
        httpx.ConnectError: no connection.
        httpx.ConnectTimeout: none in time.
    """
    return await opened(connected_socket(host, port), timeout=timeout)


async def opened(connecting: Awaitable[socket.socket], *, timeout: float | None) -> NetworkStream:
    """Return the stream of a socket that is being connected; the errors are those of `connect`.

    Args:
        connecting: returns a socket that does not block.
        timeout: seconds; None sets no limit.
    """
    try:
        async with asyncio.timeout(timeout):
            connected = await connecting
    except OSError as error:
        cause = _with_number(error)
        raise _translated(cause, httpx.ConnectError, httpx.ConnectTimeout) from cause
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return NetworkStream(SocketWaiter(connected), SocketChannel(connected))


async def connected_socket(host: str, port: int) -> socket.socket:
    """Return a socket that is connected to a host, at whichever of its addresses answers first.

    Raises:
        OSError: no connection.
    """
    return await aiohappyeyeballs.start_connection(
        await _addresses(host, port), happy_eyeballs_delay=NEXT_ADDRESS_SECONDS
    )


def _with_number(error: OSError) -> OSError:
    """Return an error with a number: where a host's addresses fail in several ways, only the text has them."""
    first = _NUMBER.search(str(error)) if error.errno is None else None
    return error if first is None else OSError(int(first[1]), str(error))


async def _addresses(host: str, port: int) -> list[Any]:
    """Return a host's addresses, as `socket.getaddrinfo` does; a look-up in the network does not block."""
    name = host.encode("ascii")  # Python checks the labels of a text, and fails with a UnicodeError
    try:
        return socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        return await asyncio.get_running_loop().getaddrinfo(name, port, type=socket.SOCK_STREAM)


def _is_readable(connected: socket.socket) -> bool:
    """Return whether bytes, the end or an error have come."""
    if connected.fileno() < 0:
        return True
    poll = select.poll()
    poll.register(connected.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def _translated(error: OSError, kind: type[httpx.NetworkError], late: type[httpx.TimeoutException]) -> Exception:
    """Return an error as httpx's. A time-out of asyncio has no number, one of the operating system has.

    A failure of TLS may come with the first bytes after the handshake, and is the same failure.
    """
    if isinstance(error, ssl.SSLError):
        return httpx.ConnectError(str(error))
    return (late if isinstance(error, TimeoutError) and error.errno is None else kind)(str(error))
