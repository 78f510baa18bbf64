"""Which connection of httpcore's pool a request gets, found without a look at all connections for each request.

httpcore checks every connection of a pool, with a system call for each idle one, whenever a request begins or
ends; and for each idle connection it counts all of them. With some hundred connections that takes longer than all
else that is done for a request. Here a request looks for an idle connection, and checks the one that it takes.
All are checked once a second, and when the pool is full; closed ones are dropped when as many requests have ended
as an eighth of the connections.

What it depends on, and httpcore does not document: the names of the pool's lists and limits, and the method that
assigns waiting requests to connections.
"""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httpx

from crossmount.registry.http.pool_places import abandoned, release_surely

if TYPE_CHECKING:
    import httpcore

SWEEP_SECONDS = 1.0
"""Seconds between two checks of all connections."""

_CLOSED_SHARE = 8

_NAMES = (
    "_assign_requests_to_connections",
    "_close_connections",
    "_connections",
    "_max_connections",
    "_max_keepalive_connections",
    "_requests",
)


def choose_quickly(transport: httpx.AsyncHTTPTransport, *, clock: Callable[[], float] = time.monotonic) -> None:
    """Let the pool of a transport choose its connections as this module does.

    Args:
        transport: the transport.
        clock: seconds, from any start.

    Raises:
        TypeError: httpcore has changed.
    """
    pool: Any = transport._pool  # noqa: SLF001 httpx has no parameter for it
    if missing := [name for name in _NAMES if not hasattr(pool, name)]:
        raise TypeError(f"httpcore's pool has no {missing[0]}: adapt connection_choice")
    pool._assign_requests_to_connections = ConnectionChoice(pool, clock=clock).assign  # noqa: SLF001
    close = pool._close_connections  # noqa: SLF001

    async def close_any(closing: "list[httpcore.AsyncConnectionInterface]") -> None:
        """Close connections, if there are any: httpcore shields itself from a cancellation for none, too."""
        if closing:
            await close(closing)

    pool._close_connections = close_any  # noqa: SLF001
    release_surely(pool)


class ConnectionChoice:
    """Assigns the waiting requests of a pool to its connections.

    Args:
        pool: httpcore's pool.
        clock: seconds, from any start.
    """

    def __init__(self, pool: Any, *, clock: Callable[[], float]) -> None:
        self._pool = pool
        self._clock = clock
        self._sweep_at = clock() + SWEEP_SECONDS
        self._ended = 0

    def assign(self) -> "list[httpcore.AsyncConnectionInterface]":
        """Give each waiting request a connection if there is one for it; return those that must be closed."""
        closing: list[httpcore.AsyncConnectionInterface] = []
        if self._clock() >= self._sweep_at or self._count > self._pool._max_keepalive_connections:  # noqa: SLF001
            self._sweep(closing)
        waiting, taken = [], set()
        for each in self._pool._requests:  # noqa: SLF001
            if each.connection is None:
                waiting.append(each)
            else:  # also if it does not use its connection yet, which looks idle until then
                taken.add(each.connection)
        if not waiting:  # a request has ended
            self._ended += 1
            if self._ended >= self._count / _CLOSED_SHARE:
                self._drop_closed()
        for request in waiting:
            origin = request.request.url.origin
            connection = self._idle(origin, taken, closing) or self._new(origin, taken, closing)
            if connection is None:  # the pool is full, and none is idle: the others wait too
                break
            request.assign_to_connection(connection)
            taken.add(connection)
        return closing

    @property
    def _count(self) -> int:
        return len(self._pool._connections)  # noqa: SLF001

    def _idle(
        self, origin: "httpcore.Origin", taken: set[Any], closing: "list[httpcore.AsyncConnectionInterface]"
    ) -> "httpcore.AsyncConnectionInterface | None":
        """Return an idle connection to an origin; those that have expired are dropped on the way."""
        connections = self._pool._connections  # noqa: SLF001
        for connection in list(connections):
            if connection in taken or not connection.is_available() or not connection.can_handle_request(origin):
                continue
            if not connection.has_expired():
                found: httpcore.AsyncConnectionInterface = connection
                return found
            connections.remove(connection)
            closing.append(connection)
        return None

    def _new(
        self, origin: "httpcore.Origin", taken: set[Any], closing: "list[httpcore.AsyncConnectionInterface]"
    ) -> "httpcore.AsyncConnectionInterface | None":
        """Return a new connection; in a full pool it takes the place of an idle one. None if there is no place."""
        pool = self._pool
        if self._count >= pool._max_connections:  # noqa: SLF001
            self._sweep(closing)
        if self._count >= pool._max_connections:  # noqa: SLF001
            free = (each for each in pool._connections if each not in taken and each.is_idle())  # noqa: SLF001
            idle = next(free, None)
            if idle is None:
                return None
            pool._connections.remove(idle)  # noqa: SLF001
            closing.append(idle)
        connection: httpcore.AsyncConnectionInterface = pool.create_connection(origin)
        pool._connections.append(connection)  # noqa: SLF001
        return connection

    def _drop_closed(self) -> None:
        self._ended = 0
        connections = self._pool._connections  # noqa: SLF001
        connections[:] = [each for each in connections if not each.is_closed()]

    def _sweep(self, closing: "list[httpcore.AsyncConnectionInterface]") -> None:
        """Drop the connections that are closed, expired, abandoned, or idle beyond the limit of idle ones."""
        self._sweep_at = self._clock() + SWEEP_SECONDS
        self._drop_closed()
        pool, kept = self._pool, []
        surplus = self._count - pool._max_keepalive_connections  # noqa: SLF001
        left = abandoned(pool)
        for connection in pool._connections:  # noqa: SLF001
            if connection in left or connection.has_expired() or (surplus > 0 and connection.is_idle()):
                surplus -= 1
                closing.append(connection)
            else:
                kept.append(connection)
        pool._connections[:] = kept  # noqa: SLF001
