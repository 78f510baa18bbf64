"""Connections to the servers of a Cluster, a pool of redis-py's for each, and all that the flavours differ in."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol

from crossmount.redis.address import Node
from crossmount.redis.deadline import hurried
from crossmount.redis.link import CALL_SECONDS, Command, OneLoop, Reader, cancellation_kept
from crossmount.redis.pipeline import exchange_each, exchange_each_async
from crossmount.redis.routing import Stop

Ask = tuple[Stop, Sequence[Command]]


class Pools(Protocol):
    """The servers of one Cluster, whichever they are by now."""

    def call(self) -> AbstractAsyncContextManager[None]:
        """Bound all that is done inside by the seconds that one run may take; errors are ours."""
        ...

    async def exchange(self, asks: Sequence[Ask]) -> list[list[Any] | Exception]:
        """Ask several servers at once; return for each its replies, or what came instead of them."""
        ...

    async def pause(self, seconds: float) -> None:
        """Wait."""
        ...

    async def keep(self, nodes: Collection[Node]) -> None:
        """Let go of all servers but these."""
        ...

    async def aclose(self) -> None:
        """Close all connections."""
        ...


class _Pools:
    """What both flavours keep: a pool for each server, and another one to ask it as a replica.

    Those are apart because READONLY, once said, holds for a connection: a server that was demoted would carry out
    on it what it should send on.

    Args:
        make: makes a pool. No I/O.
        reader: makes errors ours.
    """

    def __init__(self, make: Callable[[Node], Any], reader: Reader) -> None:
        self._make = make
        self._reader = reader
        self._pools: dict[Stop, Any] = {}

    def _asked(self, asks: Sequence[Ask]) -> list[tuple[Any, Sequence[Command]]]:
        return [(self._pool(stop), commands) for stop, commands in asks]

    def _pool(self, stop: Stop) -> Any:
        pool = self._pools.get(stop)
        return self._pools.setdefault(stop, self._make(stop.node)) if pool is None else pool

    def _others(self, nodes: Collection[Node]) -> list[Any]:
        """Take out the pools of all servers but these."""
        gone = [stop for stop in list(self._pools) if stop.node not in nodes]
        return [pool for stop in gone if (pool := self._pools.pop(stop, None)) is not None]


class AsyncPools(_Pools):
    """For one event loop, the one in which they are first used."""

    def __init__(self, make: Callable[[Node], Any], reader: Reader) -> None:
        super().__init__(make, reader)
        self._loop = OneLoop()

    @asynccontextmanager
    async def call(self) -> AsyncIterator[None]:
        """See `Pools`."""
        self._loop.check(self._reader.where)
        with cancellation_kept(), self._reader.errors():
            async with asyncio.timeout(CALL_SECONDS):
                yield

    async def exchange(self, asks: Sequence[Ask]) -> list[list[Any] | Exception]:
        """See `Pools`."""
        return await exchange_each_async(self._asked(asks))

    async def pause(self, seconds: float) -> None:
        """See `Pools`."""
        await asyncio.sleep(seconds)

    async def keep(self, nodes: Collection[Node]) -> None:
        """See `Pools`."""
        for pool in self._others(nodes):
            await pool.disconnect(inuse_connections=False)

    async def aclose(self) -> None:
        """See `Pools`."""
        for pool in self._others(()):
            await pool.disconnect()


class BlockingPools(_Pools):
    """Safe to share by threads, and by a process and its forks; nothing here suspends."""

    @asynccontextmanager
    async def call(self) -> AsyncIterator[None]:
        """See `Pools`."""
        with self._reader.errors(), hurried(CALL_SECONDS):
            yield

    async def exchange(self, asks: Sequence[Ask]) -> list[list[Any] | Exception]:
        """See `Pools`."""
        return exchange_each(self._asked(asks))

    async def pause(self, seconds: float) -> None:
        """See `Pools`."""
        time.sleep(seconds)  # noqa: ASYNC251 nothing here suspends

    async def keep(self, nodes: Collection[Node]) -> None:
        """See `Pools`."""
        for pool in self._others(nodes):
            disconnect_idle(pool)

    async def aclose(self) -> None:
        """See `Pools`."""
        for pool in self._others(()):
            pool.disconnect()


def disconnect_idle(pool: Any) -> None:
    """Disconnect those connections of a blocking pool that nobody uses, which redis-py before 7 cannot."""
    for connection in list(pool.pool.queue):
        if connection is not None:
            connection.disconnect()
