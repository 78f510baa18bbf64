"""Connections that notice an answer while the request's body is still being sent.

A gateway that refuses an upload answers as soon as it has read the headers, and hangs up soon after (RFC 9110,
15.5.14; RFC 9112, 9.5). httpcore reads the answer after a write error, but by then asyncio has closed the socket,
and the bytes in its buffer are lost. `AnsweredStream` therefore reads while a body is sent, and ends the body with
httpcore's WriteError when a refusal comes. Interim answers (1xx) do not end it, and too many are an error.

httpcore's network backends are public; `httpcore_pool.prepare_transport` puts this one into an httpx transport.
"""
# ruff: noqa: ASYNC109 the signatures are httpcore's

import asyncio
import contextlib
import os
import select
import socket
from collections.abc import Iterable
from ssl import SSLContext
from typing import Any

import anyio
import httpcore
import httpx

from crossmount._tasks import collect, finish
from crossmount.registry.http.answer_heads import AnswerHeads, InterimFloodError, report_answer

GRACE_SECONDS = 0.5
"""How long the rest of a refusal is read before a blocked write is cancelled, after which TLS cannot be read."""

_READ_BYTES = 64 * 1024
_TURNS = 3
"""Turns of the event loop until the bytes in the socket are in the stream's buffer."""


class _LeftBytes:
    """The bytes that a connection's socket still holds after asyncio has closed it for a failed write.

    Under TLS they cannot be read: then the request is sent once more.
    """

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._socket: socket.socket | None = None
        is_plain = stream.get_extra_info("ssl_object") is None
        raw = stream.get_extra_info("socket") if is_plain else None
        if raw is not None and raw.fileno() >= 0:
            with contextlib.suppress(OSError):  # too many open files
                self._socket = socket.socket(fileno=os.dup(raw.fileno()))

    def read(self) -> bytes:
        """Return the bytes that are there, without waiting."""
        if self._socket is None:
            return b""
        with contextlib.suppress(OSError):
            self._socket.setblocking(False)
            return self._socket.recv(_READ_BYTES)
        return b""

    def close(self) -> None:
        """Close the socket."""
        if self._socket is not None:
            self._socket.close()


class AnsweredStream(httpcore.AsyncNetworkStream):
    """A connection whose answers are noticed while a body is written.

    The second of several writes in a row is the beginning of a body. A task then reads until the answer begins, or
    until httpcore reads itself.
    """

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream
        self._socket: socket.socket | None = None
        self._start_request()

    def _start_request(self) -> None:
        self._heads = AnswerHeads()
        self._writes = 0
        self._is_reading = False
        self._is_announced = False
        self._buffer = bytearray()
        self._is_at_end = False
        self._failure: Exception | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._blocked: anyio.CancelScope | None = None
        self._left: _LeftBytes | None = None

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Write bytes.

        Raises:
            httpcore.WriteError: the answer came before they were written, besides what httpcore means by it.
        """
        if not buffer:
            return
        if self._is_reading:
            self._start_request()
        self._writes += 1
        if self._writes == 1:
            await self._stream.write(buffer, timeout)
            return
        if self._watcher is None:
            self._left = _LeftBytes(self._stream)
            self._watcher = asyncio.create_task(self._watch())
            self._watcher.add_done_callback(collect)
        elif not self._watcher.done() and self._is_readable():
            for _ in range(_TURNS):
                await asyncio.sleep(0)
        if self._is_refused:
            raise httpcore.WriteError("the answer came before the body was sent")
        with anyio.CancelScope() as self._blocked:
            await self._stream.write(buffer, timeout)
        blocked, self._blocked = self._blocked, None
        if blocked.cancelled_caught:
            raise httpcore.WriteError("the answer came before the body was sent")

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Read bytes: first those that came while a body was written."""
        self._is_reading = True
        if self._watcher is not None and not self._buffer:
            await asyncio.wait([self._watcher], timeout=timeout)
            if not self._watcher.done() and not self._buffer:
                raise httpcore.ReadTimeout
        if self._buffer:
            data = bytes(self._buffer[:max_bytes])
            del self._buffer[:max_bytes]
        elif self._failure is not None:
            raise self._failure
        elif self._is_at_end:
            data = b""
        else:
            data = await self._stream.read(max_bytes, timeout)
            self._heads.feed(data)
        if self._heads.status is not None and not self._is_announced:
            self._is_announced = True
            report_answer()
        return data

    @property
    def _is_refused(self) -> bool:
        """Whether to send no more: a refusal came, or nothing can come any more."""
        return self._is_at_end or self._failure is not None or (self._heads.status or 0) >= 300

    async def _watch(self) -> None:
        """Read until the answer begins, or until httpcore reads; then a refusal a little longer."""
        try:
            while not self._is_reading and not self._is_refused and self._heads.status is None:
                await self._read_on()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GRACE_SECONDS):
                    while self._blocked is not None and not self._is_at_end and self._is_refused:
                        await self._read_on()
        except httpcore.ReadError as error:
            left = b"" if self._left is None else self._left.read()
            self._buffer += left
            self._failure = error
            with contextlib.suppress(InterimFloodError):
                self._heads.feed(left)
        except (httpcore.NetworkError, httpcore.ProtocolError, httpx.HTTPError) as error:
            self._failure = error
        finally:
            if self._left is not None:
                self._left.close()
            if self._is_refused and self._blocked is not None:
                self._blocked.cancel()

    async def _read_on(self) -> None:
        data = await self._stream.read(_READ_BYTES)
        self._buffer += data
        self._is_at_end = not data
        self._heads.feed(data)

    async def aclose(self) -> None:
        """Close the connection, even if the caller is cancelled."""
        await finish(self._close())

    async def _close(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.wait([self._watcher])
        if self._left is not None:
            self._left.close()
        await self._stream.aclose()

    async def start_tls(
        self, ssl_context: SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        """Return the connection with TLS on it; close it if that fails, or if the caller is cancelled."""
        try:
            return AnsweredStream(await self._stream.start_tls(ssl_context, server_hostname, timeout))
        except BaseException:
            await self.aclose()
            raise

    def get_extra_info(self, info: str) -> Any:
        """Return what the connection knows of itself."""
        if info == "is_readable":
            return self._is_readable()
        return self._stream.get_extra_info(info)

    def _is_readable(self) -> Any:
        """Return whether bytes, or the end, have arrived.

        httpcore asks all connections before each request, and anyio would look up the addresses of both ends each
        time: in a copy of many images that took a tenth of all time.
        """
        if self._socket is None:
            self._socket = self._stream.get_extra_info("socket")
        if self._socket is None or self._socket.fileno() < 0:
            return self._stream.get_extra_info("is_readable")
        poll = select.poll()
        poll.register(self._socket.fileno(), select.POLLIN)
        return bool(poll.poll(0))


class AnsweredBackend(httpcore.AsyncNetworkBackend):
    """Makes connections that notice early answers.

    Args:
        backend: makes the connections below.
    """

    def __init__(self, backend: httpcore.AsyncNetworkBackend) -> None:
        self._backend = backend

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to a host."""
        return AnsweredStream(await self._backend.connect_tcp(host, port, timeout, local_address, socket_options))

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to a Unix socket."""
        return AnsweredStream(await self._backend.connect_unix_socket(path, timeout, socket_options))

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await self._backend.sleep(seconds)
