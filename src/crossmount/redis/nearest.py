"""Look-ups from the nearest server: the one that answers a PING first, of those that the user prefers if any does.

Two regions can share one index by Redis' own replication: each reads from its replica, and writes to the primary.
"""

import itertools
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from math import inf
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

from crossmount.errors import IndexFailedError, IndexUnavailableError
from crossmount.redis.address import Node
from crossmount.redis.call import BREAKER_SECONDS, Call, current_call
from crossmount.redis.client import Client
from crossmount.redis.replies import Command, StartingError
from crossmount.redis.slots import Shard
from crossmount.redis.threads import NoneAnsweredError, first_answer

WAIT_SECONDS = 0.5
"""How long a call waits for the first measurements."""

MEASURE_SECONDS = 60.0
"""How long a server counts as the nearest one, unless it stops to answer."""


def is_preferred(node: Node, prefer: str) -> bool:
    """Return whether a server's host name has the part that the user prefers."""
    return bool(prefer) and prefer in node[0].lower()


class NearestClient:
    """A client of several servers with the same data, for commands that only read.

    Args:
        where: their address for messages.
        discover: returns the servers; it may ask sentinels.
        make: makes a client of one server. No I/O.
        prefer: a part of the host names of the servers that are asked first; empty without a preference.
        clock: seconds.
    """

    def __init__(
        self,
        where: str,
        discover: Callable[[], Sequence[Node]],
        make: Callable[[Node], Client],
        *,
        prefer: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.where = where
        self._discover = discover
        self._make = make
        self._prefer = prefer
        self._clock = clock
        self._clients: dict[Node, Client] = {}
        self._nearest: tuple[Node, float] | None = None  # and until when it counts as that
        self._left_alone: dict[Node, float] = {}  # servers that gave no answer, and until when they are not asked

    def run(self, commands: Sequence[Command], call: Call | None = None) -> list[Any]:
        """Run commands on the nearest server; if it does not answer, on the nearest one of the others."""
        call = call or Call()
        node = self._find()
        try:
            return self._client(node).run(commands, call)
        except (IndexUnavailableError, StartingError) as error:
            if call.cancelled:
                raise
            self._leave_alone(node)
            try:
                other = self._find()
            except IndexUnavailableError:
                raise error from None
        call.renew()
        return self._client(other).run(commands, call)

    def servers(self) -> Sequence[Client]:
        """Return this client: each server has all keys."""
        return [self]

    def close(self) -> None:
        """Close the connections to all servers."""
        for client in list(self._clients.values()):
            client.close()

    def _find(self) -> Node:
        """Return the nearest server that answers.

        Raises:
            IndexUnavailableError: none answers.
        """
        now, nearest = self._clock(), self._nearest
        if nearest is not None and now < nearest[1]:
            return nearest[0]
        nodes = [node for node in dict.fromkeys(self._discover()) if self._left_alone.get(node, now) <= now]
        preferred = [node for node in nodes if is_preferred(node, self._prefer)]
        others = [node for node in nodes if node not in preferred]
        node = self._first(preferred) or self._first(others)
        if node is None:
            raise IndexUnavailableError(f"index at {self.where} does not answer: none of its servers does")
        self._nearest = node, now + MEASURE_SECONDS
        return node

    def _first(self, nodes: Sequence[Node]) -> Node | None:
        """Return the server that answers first; None if none does."""
        if len(nodes) < 2:
            return next(iter(nodes), None)
        try:
            number, _ = first_answer([partial(self._ping, node) for node in nodes], head_start=0.0)
        except NoneAnsweredError:
            for node in nodes:
                self._leave_alone(node)
            return None
        return nodes[number]

    def _ping(self, node: Node) -> None:
        call = current_call()
        self._client(node).run([("PING",)], None if call is None else Call(call.loop))

    def _leave_alone(self, node: Node) -> None:
        self._left_alone[node] = self._clock() + BREAKER_SECONDS
        if self._nearest is not None and self._nearest[0] == node:
            self._nearest = None

    def _client(self, node: Node) -> Client:
        client = self._clients.get(node)
        # setdefault, since threads that come here at once must share one client
        return self._clients.setdefault(node, self._make(node)) if client is None else client


class WarmingClient:
    """A client for look-ups whose first call opens the connections of another client, in the background.

    A push looks up first and records last. Meanwhile a distant primary can be connected to, which takes several
    round trips.

    Args:
        client: the client for look-ups.
        later: the client that will be used later.
    """

    def __init__(self, client: Client, later: Client) -> None:
        self.where = client.where
        self._client = client
        self._later: Client | None = later

    def run(self, commands: Sequence[Command], call: Call | None = None) -> list[Any]:
        """Run commands with the client for look-ups."""
        later, self._later = self._later, None
        if later is not None:
            Thread(target=_warm, args=(later,), name="crossmount-redis", daemon=True).start()
        return self._client.run(commands, call)

    def servers(self) -> Sequence[Client]:
        """Return a client for each server."""
        return self._client.servers()

    def close(self) -> None:
        """Close the connections of the client for look-ups."""
        self._client.close()


def _warm(client: Client) -> None:
    with suppress(IndexFailedError):  # the call that follows meets it too
        for server in client.servers():
            server.run([])


class RoundTrips:
    """The round trips to the servers of a Cluster, as they were measured.

    Args:
        ping: asks a server, and raises if it does not answer.
        prefer: a part of the host names of the servers that come first; empty without a preference.
        clock: seconds.
    """

    def __init__(self, ping: Callable[[Node], object], prefer: str, clock: Callable[[], float]) -> None:
        self._ping = ping
        self._prefer = prefer
        self._clock = clock
        self._seconds: dict[Node, float] = {}
        self._measured: dict[Node, float] = {}  # when a measurement began

    def rank(self, node: Node) -> tuple[bool, float]:
        """Return a sort key: preferred servers come first, then the nearest ones."""
        return not is_preferred(node, self._prefer), self._seconds.get(node, inf)

    def measure(self, shards: Iterable[Shard]) -> None:
        """Measure the servers that were not measured lately; return once a server of each shard has answered.

        The others are measured in the background, since a distant one must delay no call.
        """
        now, groups = self._clock(), [(shard.master, *shard.replicas) for shard in shards]
        nodes = itertools.chain.from_iterable(groups)
        pending = {node for node in nodes if now - self._measured.get(node, -inf) > MEASURE_SECONDS}
        ended: SimpleQueue[Node] = SimpleQueue()
        for node in pending:
            self._measured[node] = now
            Thread(target=self._measure_one, args=(node, ended), name="crossmount-redis", daemon=True).start()
        until = time.monotonic() + WAIT_SECONDS
        while any(self._seconds.keys().isdisjoint(each) and not pending.isdisjoint(each) for each in groups):
            try:
                pending.discard(ended.get(timeout=max(0.0, until - time.monotonic())))
            except Empty:
                return

    def _measure_one(self, node: Node, ended: "SimpleQueue[Node]") -> None:
        began = self._clock()
        try:
            self._ping(node)
            self._seconds[node] = self._clock() - began
        except Exception:  # noqa: BLE001 whatever it is, the next call to that server meets it too
            self._seconds.pop(node, None)
        ended.put(node)
