"""A pool of HTTP/1.1 connections of one route.

A request takes the newest idle connection to its host, and only that one is checked; all idle ones are checked
once a second. A connection serves one owner: bytes that come late, when the next request is already sent, look
like its answer, so they must not reach another owner.

A request waits for a slot, for the connection and for the answer; it releases its slot however it ends. Requests
whose answers are read as they come have slots of their own: what is read may be sent in another request of this
pool, which must not wait for it.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial

import httpx

from crossmount.registry.http.http11 import Http11Connection
from crossmount.registry.http.options import OWNER, STREAMED

KEEP_SECONDS = 5.0
"""Seconds that an idle connection is kept, as httpx does: many servers close it not long after."""

SWEEP_SECONDS = 1.0
"""Seconds between two checks of all idle connections."""

Key = tuple[bytes, int | None, str]
"""The host, the port, and the owner."""

Dial = Callable[[httpx.URL, float | None], Awaitable[Http11Connection]]
"""Opens a connection to the host of a URL, in so many seconds."""


class ConnectionPool(httpx.AsyncBaseTransport):
    """Sends requests over connections that are used again.

    Args:
        dial: opens a connection.
        limit: the most requests at once, and the most whose answers are read as they come; more wait.
        clock: seconds, from any start.
    """

    def __init__(self, dial: Dial, *, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._dial = dial
        self._limit = limit
        self._clock = clock
        self._slots, self._streamed_slots = asyncio.Semaphore(limit), asyncio.Semaphore(limit)
        self._running = 0
        self._used: set[Http11Connection] = set()
        self._idle: list[tuple[float, Key, Http11Connection]] = []  # the one that was idle longest comes first
        self._sweep_at = clock() + SWEEP_SECONDS
        self._is_closed = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request over an idle connection or a new one, and return the answer with its body unread.

        Raises:
            httpx.TransportError: there is no answer.
            RuntimeError: the pool is closed.
        """
        timeouts = request.extensions.get("timeout", {})
        key: Key = (request.url.raw_host, request.url.port, request.extensions.get(OWNER, ""))
        slots = self._streamed_slots if STREAMED in request.extensions else self._slots
        await slots.acquire()
        self._running += 1
        connection: Http11Connection | None = None
        try:
            self._check_open()
            connection = self._take_idle(key) or await self._new(request.url, timeouts.get("connect"))
            self._used.add(connection)
            self._check_open()  # it may have been closed while this connected
            head = await connection.send(request)
        except BaseException:
            self._release(slots, key, connection)
            raise
        return httpx.Response(
            status_code=head.status_code,
            headers=head.headers.raw_items(),
            stream=_Body(connection, partial(self._release, slots, key, connection)),
            extensions={"http_version": b"HTTP/" + head.http_version, "reason_phrase": bytes(head.reason)},
        )

    async def aclose(self) -> None:
        """Close all connections. Requests under way fail, also those that wait or connect."""
        self._is_closed = True
        for connection in self._used:
            connection.close()
        for _, _, connection in self._idle:
            connection.close()
        self._idle.clear()

    @property
    def count(self) -> int:
        """The number of open connections."""
        return len(self._used) + len(self._idle)

    def _check_open(self) -> None:
        if self._is_closed:
            raise RuntimeError("the connections are closed")

    def _take_idle(self, key: Key) -> Http11Connection | None:
        """Return the newest idle connection for a key; those that cannot be used are closed on the way."""
        now = self._clock()
        if now >= self._sweep_at:
            self._sweep(now)
        for at in range(len(self._idle) - 1, -1, -1):
            since, idle_key, connection = self._idle[at]
            if idle_key == key:
                del self._idle[at]
                if is_usable(connection, since, now):
                    return connection
                connection.close()
        return None

    async def _new(self, url: httpx.URL, timeout: float | None) -> Http11Connection:  # noqa: ASYNC109 httpx's
        """Open a connection; a full pool first closes the one that was idle longest."""
        if self._idle and self._running + len(self._idle) > self._limit:
            _, _, connection = self._idle.pop(0)
            connection.close()
        return await self._dial(url, timeout)

    def _release(self, slots: asyncio.Semaphore, key: Key, connection: Http11Connection | None) -> None:
        """End a request: its connection is idle or closed, and its slot is free."""
        self._running -= 1
        slots.release()
        if connection is None:
            return
        self._used.discard(connection)
        if connection.finish() and not self._is_closed:
            self._idle.append((self._clock(), key, connection))
        else:
            connection.close()

    def _sweep(self, now: float) -> None:
        """Close the idle connections that cannot be used any more."""
        self._sweep_at = now + SWEEP_SECONDS
        idle, self._idle = self._idle, []
        for since, key, connection in idle:
            if is_usable(connection, since, now):
                self._idle.append((since, key, connection))
            else:
                connection.close()


def is_usable(connection: Http11Connection, since: float, now: float) -> bool:
    """Return whether an idle connection can be used again."""
    return now - since < KEEP_SECONDS and connection.is_quiet


class _Body(httpx.AsyncByteStream):
    """The body of an answer.

    Args:
        connection: what it comes over.
        release: ends the request.
    """

    def __init__(self, connection: Http11Connection, release: Callable[[], None]) -> None:
        self._connection = connection
        self._release: Callable[[], None] | None = release
        self._is_at_end = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._release is None:
            raise httpx.StreamClosed
        if self._is_at_end:
            raise StopAsyncIteration
        try:
            part = await self._connection.read()
        except BaseException:
            await self.aclose()
            raise
        if not part:
            self._is_at_end = True
            raise StopAsyncIteration
        return part

    async def aclose(self) -> None:
        """End the request. Nothing is waited for, so nobody can cancel it."""
        if self._release is not None:
            release, self._release = self._release, None
            release()
