"""A client of a Cluster: each server that has some of the keys is asked once, all of them at the same time.

A server that does not answer affects only its own keys: commands for them are refused, and for some seconds they
are not sent, unless another server has taken its place by then.

redis-py's own Cluster client is not used. Its pipeline is all or nothing: with one silent master of three it knew
0 layers of 40, this one 28. It connects when it is made and asks for the list of all commands first (70 ms; this
one 3 ms), sends what was redirected one by one, and takes a time-out for each silent server.
"""

import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any

from crossmount.errors import IndexRefusedError
from crossmount.redis.address import Node
from crossmount.redis.breaker import Breaker
from crossmount.redis.call import Call, Turns
from crossmount.redis.client import CONNECTIONS, Caller, Client
from crossmount.redis.pools import Servers
from crossmount.redis.replies import Command, Reader
from crossmount.redis.routing import ASK_MAP, Batch, Errand, Stop
from crossmount.redis.slots import SlotMap
from redis import exceptions

PAUSE_SECONDS = 0.05
"""Before a command on keys that are just being moved is sent again."""

ALONE_SECONDS = 5.0
"""How long a server is left alone that did not answer; each time that it still does not, twice as long."""

RELEARN_SECONDS = 0.5
"""How often the others are asked meanwhile whether one of them has taken its place."""


class ClusterClient:
    """A client of all servers of a Cluster.

    Args:
        servers: connections to them.
        seeds: servers to learn the others from.
        reader: reads replies.
        replicas: whether replicas may answer; then it is for reading alone.
        clock: seconds, for how long a server is left alone.
    """

    def __init__(
        self,
        servers: Servers,
        seeds: Sequence[Node],
        reader: Reader,
        *,
        replicas: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.where = reader.where
        self._servers = servers
        self._seeds = seeds
        self._caller = Caller(reader, Turns(CONNECTIONS))
        self._replicas = replicas
        self._turns = itertools.count()
        self._map: SlotMap | None = None
        self._clock = clock
        self._breakers: dict[Node, Breaker] = {}
        self._learnt = float("-inf")

    def run(self, commands: Sequence[Command], call: Call | None = None) -> list[Any]:
        """Send each command to its server; one without a key goes to every server asked, and has one reply."""
        errand = Errand(commands, replicas=self._replicas, turn=next(self._turns), suspects=tuple(self._breakers))
        call = call or Call()
        with self._caller.calling(call):
            while not errand.done:
                if errand.pause_wanted:
                    self._servers.pause(PAUSE_SECONDS)
                slots = self._map
                absent = self._absent()
                if slots is None or errand.map_wanted or (absent and self._is_map_old()):
                    slots = self._learn(errand.lost | absent)
                batches = errand.batches(slots, absent=absent)
                self._probe(batches)
                outcomes = self._servers.exchange([(batch.stop, batch.commands) for batch in batches])
                if call.cancelled:
                    call.check()
                for batch, outcome in zip(batches, outcomes, strict=True):
                    if isinstance(outcome, Exception):
                        errand.unanswered(batch, outcome)
                    else:
                        errand.answered(batch, outcome)
                        self._breakers.pop(batch.stop.node, None)
                self._leave_alone(errand.gone)
                if errand.map_told is not None:
                    self._take(SlotMap.from_reply(*errand.map_told))
            return self._caller.reader.read(commands, errand.replies)

    def parts(self) -> Sequence[Client]:
        """Return a client for each master."""
        with self._caller.calling(None):
            slots = self._learn(set())
        return [_NodeClient(self._servers, node, self._caller) for node in slots.masters]

    def close(self) -> None:
        """Close the connections to all servers."""
        with self._caller.reader.errors():
            self._servers.close()

    def _absent(self) -> set[Node]:
        now = self._clock()
        return {node for node, breaker in list(self._breakers.items()) if breaker.is_open(now)}

    def _is_map_old(self) -> bool:
        return self._clock() - self._learnt > RELEARN_SECONDS

    def _probe(self, batches: Sequence[Batch]) -> None:
        """Note which silent servers are asked again: other calls leave them alone meanwhile."""
        now = self._clock()
        for batch in batches:
            breaker = self._breakers.get(batch.stop.node)
            if breaker is not None and not batch.stop.replica:
                breaker.probe(now)

    def _leave_alone(self, gone: set[Node]) -> None:
        now = self._clock()
        for node in gone:
            self._breakers.setdefault(node, Breaker(ALONE_SECONDS)).fail(now)

    def _learn(self, lost: set[Node]) -> SlotMap:
        """Ask one server after another who serves what, those that did not answer before last."""
        known = dict.fromkeys((*(() if self._map is None else self._map.nodes), *self._seeds))
        trouble: Exception | None = None
        for node in sorted(known, key=lambda node: node in lost):
            (outcome,) = self._servers.exchange([(Stop(node), [ASK_MAP])])
            reply = outcome if isinstance(outcome, Exception) else outcome[0]
            if isinstance(reply, exceptions.AuthenticationError | exceptions.ResponseError):
                is_login = isinstance(reply, exceptions.AuthenticationError | exceptions.NoPermissionError)
                hint = "" if is_login else ": if it is no Cluster, give a redis:// URL"
                raise IndexRefusedError(f"{self._said(reply)}{hint}") from None
            if not isinstance(reply, Exception):
                return self._take(SlotMap.from_reply(reply, node))
            trouble = reply
        if trouble is None:
            raise IndexRefusedError(f"index at {self.where}: no server is named")
        raise trouble

    def _said(self, reply: Exception) -> str:
        (error,) = self._caller.reader.read([ASK_MAP], [reply])
        return str(error)

    def _take(self, slots: SlotMap) -> SlotMap:
        self._map, self._learnt = slots, self._clock()
        self._servers.keep({*slots.nodes, *self._seeds})
        return slots


class _NodeClient:
    """A client of one server of a Cluster, which follows no redirection."""

    def __init__(self, servers: Servers, node: Node, caller: Caller) -> None:
        self.where = caller.reader.where
        self._servers = servers
        self._node = node
        self._caller = caller

    def run(self, commands: Sequence[Command], call: Call | None = None) -> list[Any]:
        """Send commands to this server and return their replies."""
        with self._caller.calling(call):
            (outcome,) = self._servers.exchange([(Stop(self._node), commands)])
            if isinstance(outcome, Exception):
                raise outcome
            return self._caller.reader.read(commands, outcome)

    def parts(self) -> Sequence[Client]:
        """Return this client."""
        return [self]

    def close(self) -> None:
        """Do nothing: the Cluster's client closes the connections."""
