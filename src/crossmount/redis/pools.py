"""Connections to the servers of a Cluster: a pool of redis-py's for each."""

import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

from crossmount.redis.address import Node
from crossmount.redis.pipeline import exchange_each
from crossmount.redis.redis_py import Pool
from crossmount.redis.replies import Command
from crossmount.redis.routing import Target

ServerRequest = tuple[Target, Sequence[Command]]
"""A server, and commands for it."""


class Pools:
    """A pool for each server, and another one to ask it as a replica.

    Those are apart because READONLY, once sent, holds for a connection: a server that is a replica no more would
    answer on it where it should redirect.

    Args:
        make: makes a pool. No I/O.
    """

    def __init__(self, make: Callable[[Node], Pool]) -> None:
        self._make = make
        self._pools: dict[Target, Pool] = {}

    def exchange(self, requests: Sequence[ServerRequest]) -> list[list[Any] | Exception]:
        """Ask several servers at once; return for each its replies, or the error in their place."""
        return exchange_each([(self._pool(target), commands) for target, commands in requests])

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

    def _pool(self, target: Target) -> Pool:
        pool = self._pools.get(target)
        return self._pools.setdefault(target, self._make(target.node)) if pool is None else pool

    def _take_out(self, nodes: Collection[Node]) -> list[Pool]:
        gone = [target for target in list(self._pools) if target.node not in nodes]
        return [pool for target in gone if (pool := self._pools.pop(target, None)) is not None]
