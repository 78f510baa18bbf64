"""Connections to the servers of a Cluster: a pool for each server."""

import time
from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol

from crossmount.redis.address import Node
from crossmount.redis.pipeline import exchange_each
from crossmount.redis.redis_py import Pool
from crossmount.redis.replies import Command
from crossmount.redis.routing import Stop

Ask = tuple[Stop, Sequence[Command]]


class Servers(Protocol):
    """The servers of one Cluster, whichever they are by now."""

    def exchange(self, asks: Sequence[Ask]) -> list[list[Any] | Exception]:
        """Ask several servers at once; return for each its replies, or the error in their place."""
        ...

    def pause(self, seconds: float) -> None:
        """Wait."""
        ...

    def keep(self, nodes: Collection[Node]) -> None:
        """Close the idle connections to all servers but these."""
        ...

    def close(self) -> None:
        """Close all connections."""
        ...


class Pools:
    """A pool for each server, and another one to ask it as a replica.

    Those are apart because READONLY, once sent, holds for a connection: a server that is a replica no more would
    answer on it where it should redirect.

    Args:
        make: makes a pool. No I/O.
    """

    def __init__(self, make: Callable[[Node], Pool]) -> None:
        self._make = make
        self._pools: dict[Stop, Pool] = {}

    def exchange(self, asks: Sequence[Ask]) -> list[list[Any] | Exception]:
        """Ask several servers at once; return for each its replies, or the error in their place."""
        return exchange_each([(self._pool(stop), commands) for stop, commands in asks])

    def pause(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)

    def keep(self, nodes: Collection[Node]) -> None:
        """Close the idle connections to all servers but these."""
        for pool in self._take_out(nodes):
            pool.disconnect_idle()

    def close(self) -> None:
        """Close all connections."""
        for pool in self._take_out(()):
            pool.disconnect()

    def _pool(self, stop: Stop) -> Pool:
        pool = self._pools.get(stop)
        return self._pools.setdefault(stop, self._make(stop.node)) if pool is None else pool

    def _take_out(self, nodes: Collection[Node]) -> list[Pool]:
        gone = [stop for stop in list(self._pools) if stop.node not in nodes]
        return [pool for stop in gone if (pool := self._pools.pop(stop, None)) is not None]
