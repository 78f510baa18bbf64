"""httpcore's connections on asyncio's sockets. They notice an answer while a request's body is still being sent.

A gateway that refuses an upload answers as soon as it has read the headers, and hangs up soon after (RFC 9110,
15.5.14; RFC 9112, 9.5). httpcore reads the answer after a write error, but the streams that come with it have
closed the socket by then, and the answer is lost. `AnsweredStream` looks for an answer before each part of a body
and while it waits to send one, and ends the body with httpcore's WriteError when a refusal comes. Interim answers
(1xx) do not end it, and too many are an error.

They also take less time: no part of a body is copied, and more is received at once.

httpcore's network backends are public; `httpcore_pool.prepare_transport` puts this one into an httpx transport.
"""
# ruff: noqa: ASYNC109 the signatures are httpcore's

import asyncio
import re
import select
import socket
import ssl
from collections.abc import Iterable
from typing import Any

import aiohappyeyeballs
import httpcore

from crossmount.registry.http.answer_heads import AnswerHeads, InterimFloodError, report_answer
from crossmount.registry.http.channels import READ_BYTES, Channel, SocketChannel, TlsChannel
from crossmount.registry.http.socket_waiter import SocketWaiter
from crossmount.registry.http.tls import NO_HANDSHAKE

NEXT_ADDRESS_SECONDS = 0.25
"""How long one of a host's addresses is tried alone before the next one is tried beside it (RFC 8305, 5)."""


_NUMBER = re.compile(r"\[Errno (\d+)\]")


class AnsweredStream(httpcore.AsyncNetworkStream):
    """A connection whose answers are noticed while a body is written.

    The second of several writes in a row is the beginning of a body.

    Args:
        waiter: waits for the socket.
        channel: what is sent and received over it.
    """

    def __init__(self, waiter: SocketWaiter, channel: Channel) -> None:
        self._waiter = waiter
        self._channel = channel
        self._start_request()

    def _start_request(self) -> None:
        self._heads = AnswerHeads()
        self._writes = 0
        self._is_reading = False
        self._is_announced = False
        self._buffer = bytearray()
        self._is_at_end = False
        self._failure: Exception | None = None
        self._unwritable: OSError | None = None

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Write bytes.

        Raises:
            httpcore.WriteError: the answer came before they were written, besides what httpcore means by it.
        """
        if not buffer:
            return
        if self._is_reading:
            self._start_request()
        if not self._writes:
            self._is_announced = buffer.startswith(b"CONNECT ")  # a proxy's answer is not the one to the request
        self._writes += 1
        try:
            if self._writes > 1:
                await asyncio.sleep(0)  # a connection that is always ready would let nobody else run
                self._look_for_answer()
            left = self._send(memoryview(buffer))
            if left is not None:
                async with asyncio.timeout(timeout):
                    await self._send_all(left)
        except ssl.SSLError:
            raise
        except OSError as error:
            self._unwritable = error
            raise _translated(error, httpcore.WriteError, httpcore.WriteTimeout) from error

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
            httpcore.WriteError: it is a refusal, or nothing more can come.
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
        except (OSError, InterimFloodError) as error:
            self._failure = _read_failure(error)
        if self._is_at_end or self._failure is not None or (self._heads.status or 0) >= 300:
            raise httpcore.WriteError("the answer came before the body was sent")

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Read bytes: first those that came while a body was written.

        There may be more of them than was asked for: h11 takes any number, and a proxy's own answers are short.
        """
        self._is_reading = True
        if self._buffer:
            data, self._buffer = bytes(self._buffer), bytearray()
        elif self._failure is not None:
            raise self._failure
        elif self._is_at_end:
            data = b""
        else:
            data = await self._receive(max(max_bytes, READ_BYTES), timeout)
            self._heads.feed(data)
        if self._heads.status is not None and not self._is_announced:
            self._is_announced = True
            report_answer()
        return data

    async def _receive(self, size: int, timeout: float | None) -> bytes:
        try:
            data = self._channel.receive(size)
            if data is None:
                async with asyncio.timeout(timeout):
                    while data is None:
                        await self._waiter.wait(reading=True, writing=False)
                        data = self._channel.receive(size)
            else:
                await asyncio.sleep(0)  # as in `write`
            if not data and self._unwritable is not None:
                raise self._unwritable  # the operating system tells only the first caller why there is an end
            self._is_at_end = not data
        except OSError as error:
            raise _read_failure(error)  # noqa: B904 it has its cause
        return data

    async def aclose(self) -> None:
        """Close the connection; a request that waits for it fails.

        It does not wait: httpcore closes what its pool drops in any request's task, and that may be cancelled.
        """
        self._waiter.close()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        """Return the connection with TLS on it; close it if that fails, or if the caller is cancelled."""
        try:
            channel = TlsChannel(self._channel, ssl_context, server_hostname)
            async with asyncio.timeout(timeout):
                while not channel.shake_hands():
                    await self._waiter.wait(reading=True, writing=not channel.flush() and not channel.wants_bytes)
                while not channel.flush():
                    await self._waiter.wait(reading=False, writing=True)
        except BaseException as error:
            await self.aclose()
            if isinstance(error, TimeoutError) and error.errno is None:
                raise httpcore.ConnectTimeout(NO_HANDSHAKE) from error
            if isinstance(error, OSError):
                raise _translated(error, httpcore.ConnectError, httpcore.ConnectTimeout) from error
            raise
        return AnsweredStream(self._waiter, channel)

    @property
    def holds_bytes(self) -> bool:
        """Whether bytes left the operating system that nobody has read."""
        return bool(self._buffer) or self._channel.holds_bytes

    def get_extra_info(self, info: str) -> Any:
        """Return what httpcore asks for: its TLS, its socket, its addresses, and whether bytes or the end came."""
        if info == "ssl_object":
            return self._channel.tls
        if info == "is_readable":
            return self._is_at_end or self.holds_bytes or _is_readable(self._waiter.socket)
        if info == "client_addr":
            return self._waiter.socket.getsockname()
        if info == "server_addr":
            return self._waiter.socket.getpeername()
        return self._waiter.socket if info == "socket" else None


class SocketBackend(httpcore.AsyncNetworkBackend):
    """Connects to hosts; httpcore's network backend."""

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to a host, at whichever of its addresses answers first. A local address cannot be chosen."""
        assert local_address is None  # noqa: S101 no option of ours sets one
        try:
            async with asyncio.timeout(timeout):
                connected = await aiohappyeyeballs.start_connection(
                    await _addresses(host, port), happy_eyeballs_delay=NEXT_ADDRESS_SECONDS
                )
        except OSError as error:
            error = _numbered(error)
            raise _translated(error, httpcore.ConnectError, httpcore.ConnectTimeout) from error
        for option in ((socket.IPPROTO_TCP, socket.TCP_NODELAY, 1), *(socket_options or ())):
            connected.setsockopt(*option)
        return AnsweredStream(SocketWaiter(connected), SocketChannel(connected))

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)


async def _addresses(host: str, port: int) -> list[Any]:
    """Return a host's addresses, as `socket.getaddrinfo` does; a look-up in the network does not block."""
    name = host.encode("ascii")  # Python checks the labels of a text, and fails with a UnicodeError
    try:
        return socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        return await asyncio.get_running_loop().getaddrinfo(name, port, type=socket.SOCK_STREAM)


def _numbered(error: OSError) -> OSError:
    """Return an error with a number: where a host's addresses fail in several ways, only the text has them."""
    first = _NUMBER.search(str(error)) if error.errno is None else None
    return error if first is None else OSError(int(first[1]), str(error))


def _is_readable(connected: socket.socket) -> bool:
    """Return whether bytes, the end or an error have come; httpcore asks each connection before each request."""
    if connected.fileno() < 0:
        return True
    poll = select.poll()
    poll.register(connected.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def _read_failure(error: Exception) -> Exception:
    """Return what `read` raises: failures of TLS, and too many interim answers, as they are."""
    if not isinstance(error, OSError) or isinstance(error, ssl.SSLError):
        return error
    failure = _translated(error, httpcore.ReadError, httpcore.ReadTimeout)
    failure.__cause__ = error
    return failure


def _translated(error: OSError, kind: type[Exception], late: type[Exception]) -> Exception:
    """Return an error as httpcore's; a time-out of asyncio has no number, one of the operating system has."""
    return (late if isinstance(error, TimeoutError) and error.errno is None else kind)(str(error))
