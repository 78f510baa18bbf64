"""The connections that go the same way: which one a request gets, and how many there are.

A request takes an idle connection to its host, and checks only that one. A connection serves one owner: nobody can
tell what follows an answer late, when the next request is on its way already, from the next answer. All idle
connections are checked once a second. Nothing here waits except for a place, a connection and an answer, and each
request gives its place back however it ends.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial

import httpx

from crossmount.registry.http.http11 import Http11Connection
from crossmount.registry.http.options import OWNER

KEEP_SECONDS = 5.0
"""Seconds that an idle connection is kept, as httpx does: many servers close it not long after."""

SWEEP_SECONDS = 1.0
"""Seconds between two checks of all idle connections."""

Key = tuple[bytes, int | None, str]
"""The host, the port, and the owner."""

Open = Callable[[httpx.URL, float | None], Awaitable[Http11Connection]]
"""Opens a connection to the host of a URL, in so many seconds."""


class ConnectionPool(httpx.AsyncBaseTransport):
    """Sends requests over connections that are used again.

    Args:
        connect: opens a connection.
        limit: the most connections; more requests wait for their turn.
        clock: seconds, from any start.
    """

    def __init__(self, connect: Open, *, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._connect = connect
        self._limit = limit
        self._clock = clock
        self._places = asyncio.Semaphore(limit)
        self._running = 0
        self._used: set[Http11Connection] = set()
        self._idle: dict[Key, list[tuple[float, Http11Connection]]] = {}
        self._sweep_at = clock() + SWEEP_SECONDS
        self._is_closed = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request over an idle connection or a new one, and return the answer with its body unread.

        Raises:
            httpx.TransportError: there is no answer.
            RuntimeError: the pool is closed.
        """
        self._check_open()
        timeouts = request.extensions.get("timeout", {})
        key: Key = (request.url.raw_host, request.url.port, request.extensions.get(OWNER, ""))
        await self._places.acquire()
        self._running += 1
        connection: Http11Connection | None = None
        try:
            self._check_open()  # it may have been closed while this waited
            connection = self._idle_one(key) or await self._new(request.url, timeouts.get("connect"))
            self._used.add(connection)
            self._check_open()
            head = await connection.ask(request)
        except BaseException:
            self._give_back(key, connection)
            raise
        return httpx.Response(
            status_code=head.status_code,
            headers=head.headers.raw_items(),
            stream=_Body(connection, timeouts.get("read"), partial(self._give_back, key, connection)),
            extensions={"http_version": b"HTTP/" + head.http_version, "reason_phrase": bytes(head.reason)},
        )

    async def aclose(self) -> None:
        """Close all connections. Requests under way fail, also those that wait or connect."""
        self._is_closed = True
        for connection in self._used:
            connection.close()
        for waiting in self._idle.values():
            for _, connection in waiting:
                connection.close()
        self._idle.clear()

    @property
    def count(self) -> int:
        """The number of open connections."""
        return len(self._used) + sum(map(len, self._idle.values()))

    def _check_open(self) -> None:
        if self._is_closed:
            raise RuntimeError("the connections are closed")

    def _idle_one(self, key: Key) -> Http11Connection | None:
        """Return the connection that became idle last; those before it that cannot be used are closed."""
        now = self._clock()
        if now >= self._sweep_at:
            self._sweep(now)
        idle = self._idle.get(key)
        while idle:
            since, connection = idle.pop()
            if not idle:
                del self._idle[key]
            if is_usable(connection, since, now):
                return connection
            connection.close()
        return None

    async def _new(self, url: httpx.URL, timeout: float | None) -> Http11Connection:  # noqa: ASYNC109 httpx's
        """Open a connection; where there are too many, it takes the place of the one that was idle longest."""
        if self._idle and self._running + sum(map(len, self._idle.values())) > self._limit:
            key = min(self._idle, key=lambda each: self._idle[each][0][0])
            _, connection = self._idle[key].pop(0)
            connection.close()
            if not self._idle[key]:
                del self._idle[key]
        return await self._connect(url, timeout)

    def _give_back(self, key: Key, connection: Http11Connection | None) -> None:
        """End a request: its connection is idle or closed, and its place is free."""
        self._running -= 1
        self._places.release()
        if connection is None:
            return
        self._used.discard(connection)
        if connection.finish() and not self._is_closed:
            self._idle.setdefault(key, []).append((self._clock(), connection))
        else:
            connection.close()

    def _sweep(self, now: float) -> None:
        """Close the idle connections that cannot be used any more."""
        self._sweep_at = now + SWEEP_SECONDS
        for key, idle in list(self._idle.items()):
            kept = []
            for since, connection in idle:
                if is_usable(connection, since, now):
                    kept.append((since, connection))
                else:
                    connection.close()
            if kept:
                self._idle[key] = kept
            else:
                del self._idle[key]


def is_usable(connection: Http11Connection, since: float, now: float) -> bool:
    """Return whether an idle connection can be used again."""
    return now - since < KEEP_SECONDS and connection.is_quiet


class _Body(httpx.AsyncByteStream):
    """The body of an answer.

    Args:
        connection: it comes over.
        timeout: the most seconds without a byte.
        give_back: ends the exchange.
    """

    def __init__(self, connection: Http11Connection, timeout: float | None, give_back: Callable[[], None]) -> None:
        self._connection = connection
        self._timeout = timeout
        self._give_back: Callable[[], None] | None = give_back
        self._is_at_end = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._give_back is None:
            raise httpx.StreamClosed
        if self._is_at_end:
            raise StopAsyncIteration
        try:
            part = await self._connection.read(timeout=self._timeout)
        except BaseException:
            await self.aclose()
            raise
        if not part:
            self._is_at_end = True
            raise StopAsyncIteration
        return part

    async def aclose(self) -> None:
        """End the exchange. Nothing is waited for, so nobody can cancel it."""
        if self._give_back is not None:
            give_back, self._give_back = self._give_back, None
            give_back()
