"""A client of a Cluster: each server that has some of the keys is asked once, all of them at the same time.

A server that does not answer affects only its own keys: commands for them are refused, and for some seconds they
are not sent, unless another server has taken its place by then.

redis-py's own Cluster client is not used. Its pipeline is all or nothing: with one silent master of three it knew
0 layers of 40, this one 28. It connects when it is made and asks for the list of all commands first (70 ms; this
one 3 ms), sends redirected commands one by one, and waits a time-out for each silent server.
"""

import itertools
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

import redis
from crossmount.errors import IndexRefusedError
from crossmount.redis.address import Node, ReadFrom
from crossmount.redis.call import BREAKER_SECONDS, Breaker, Call, CallLimiter
from crossmount.redis.client import CONNECTIONS, CallRunner, Client
from crossmount.redis.listener import MessagePlace
from crossmount.redis.nearest import RoundTrips
from crossmount.redis.pipeline import exchange_each
from crossmount.redis.redis_py import Pool
from crossmount.redis.replies import Command, ReplyReader
from crossmount.redis.routing import CLUSTER_SLOTS, Batch, CommandRouting, Target
from crossmount.redis.scripts import with_sources
from crossmount.redis.slots import SlotMap, slot_of
from crossmount.redis.threads import NoneAnsweredError, first_answer
from redis import exceptions

ServerRequest = tuple[Target, Sequence[Command]]
"""A server, and commands for it."""


class Pools:
    """A pool for each server, and another one to ask it as a replica.

    They are separate because READONLY stays in force for a connection: after a failover, a promoted server would
    answer on it instead of redirecting.

    Args:
        make: makes a pool. No I/O.
    """

    def __init__(self, make: Callable[[Node], Pool]) -> None:
        self._make = make
        self._pools: dict[Target, Pool] = {}

    def exchange(self, requests: Sequence[ServerRequest]) -> list[list[Any] | Exception]:
        """Send to several servers at once; return for each its replies, or the error instead."""
        return exchange_each([(self._pool(target), commands) for target, commands in requests])

    def pubsub(self, node: Node) -> Any:
        """Return redis-py's client for the messages of a server. No I/O."""
        return redis.Redis(connection_pool=self._pool(Target(node))).pubsub()  # type: ignore[no-untyped-call]

    def pause(self, seconds: float) -> None:
        """Sleep."""
        time.sleep(seconds)

    def keep(self, nodes: Collection[Node]) -> None:
        """Close the connections to all other servers, those in use when they are released."""
        for pool in self._take_out(nodes):
            pool.retire()

    def disconnect_idle(self, nodes: Collection[Node]) -> None:
        """Close the idle connections to some servers, so that the next command there opens a new one."""
        for target, pool in list(self._pools.items()):
            if target.node in nodes:
                pool.disconnect(inuse_connections=False)

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


PAUSE_SECONDS = 0.05
"""Pause before a command whose keys are being moved (slot migration) is sent again."""

MAP_SECONDS = 0.5
"""Minimum seconds between two reads of the map while a server does not answer."""

MAP_SOURCES_MAX = 16
"""How many servers are asked for the map at once; those that were silent are asked last the next time."""

_REFUSALS = (exceptions.AuthenticationError, exceptions.ResponseError)


class ClusterClient:
    """A client of all servers of a Cluster.

    Args:
        pools: connections to them.
        seeds: the servers of the URL, which know the others.
        reader: reads replies.
        read_from: who answers; a client that does not read from the masters is for reads only.
        prefer: a part of the host names of the servers that `nearest` asks first.
        clock: seconds, for the breakers.
    """

    def __init__(
        self,
        pools: Pools,
        seeds: Sequence[Node],
        reader: ReplyReader,
        *,
        read_from: ReadFrom = "master",
        prefer: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.where = reader.where
        self._pools = pools
        self._seeds = seeds
        self._caller = CallRunner(reader, CallLimiter(CONNECTIONS))
        self._replicas = read_from != "master"
        self._round_trips = RoundTrips(self._ping, prefer, clock) if read_from == "nearest" else None
        self._calls = itertools.count()
        self._map: SlotMap | None = None
        self._clock = clock
        self._breakers: dict[Node, Breaker] = {}
        self._failing: dict[Node, str] = {}  # why the servers with a breaker gave no answer
        self._fetched = float("-inf")
        self._last_source: Node | None = None  # the server that gave the last map
        self._unheard: set[Node] = set()  # servers that gave no map when they were asked last
        self._is_map_doubtful = False  # no server answered when a new map was needed

    def run(self, commands: Sequence[Command], call: Call | None = None) -> list[Any]:
        """Send each command to the server of its key; one without a key goes to all servers, and has one reply."""
        routing = CommandRouting(
            commands,
            replicas=self._replicas,
            rank=None if self._round_trips is None else self._round_trips.rank,
            number=next(self._calls),
            failing=dict(self._failing),
        )
        call = call or Call()
        return self._caller.run(call, lambda: self._run_rounds(commands, routing, call))

    def _run_rounds(self, commands: Sequence[Command], routing: CommandRouting, call: Call) -> list[Any]:
        """Ask the servers, in rounds, until each command has its reply."""
        while not routing.done:
            if routing.needs_pause:
                self._pools.pause(PAUSE_SECONDS)
            slots = self._map
            excluded = self._excluded()
            if slots is None or routing.needs_map or self._is_map_doubtful or self._is_map_due(slots, excluded):
                slots = self._fetch_map(routing.silent | excluded)
            if self._round_trips is not None:
                self._round_trips.measure(slots.shards)
            batches = routing.batches(slots, excluded=excluded)
            self._probe(batches)
            outcomes = self._pools.exchange([(each.target, with_sources(each.commands)) for each in batches])
            if call.cancelled:
                call.check()
            for batch, outcome in zip(batches, outcomes, strict=True):
                if isinstance(outcome, Exception):
                    routing.add_failure(batch, outcome)
                else:
                    routing.add_replies(batch, outcome)
                    self._note_answer(batch.target.node)
            self._open_breakers(routing.given_up)
            if routing.new_map is not None:
                self._use_map(SlotMap.from_reply(*routing.new_map))
        return self._caller.reader.read(commands, routing.replies)

    def servers(self) -> Sequence[Client]:
        """Return a client for each master."""
        slots = self._caller.run(None, lambda: self._fetch_map(set()))
        return [_NodeClient(self._pools, node, self._caller) for node in slots.masters]

    def message_places(self, channels: Sequence[str]) -> Sequence[MessagePlace]:
        """Return the masters that have the slots of channels."""
        slots = self._map or self._caller.run(None, lambda: self._fetch_map(set()))
        places: dict[Node, list[str]] = {}
        for channel in channels:
            shard = slots.shard_of(slot_of(("SUBSCRIBE", channel)) or 0)
            if shard is not None:
                places.setdefault(shard.master, []).append(channel)
        return [
            MessagePlace(key=node, make=partial(self._pools.pubsub, node), is_sharded=True, channels=some)
            for node, some in places.items()
        ]

    def close(self) -> None:
        """Close the connections to all servers."""
        with self._caller.reader.errors():
            self._pools.close()

    def _excluded(self) -> set[Node]:
        now = self._clock()
        return {node for node, breaker in list(self._breakers.items()) if breaker.is_open(now)}

    def _is_map_due(self, slots: SlotMap, excluded: set[Node]) -> bool:
        """Return whether another server may have taken the place of an excluded master by now."""
        return self._clock() - self._fetched > MAP_SECONDS and not excluded.isdisjoint(slots.masters)

    def _probe(self, batches: Sequence[Batch]) -> None:
        """Note which failed servers get a batch, as a probe: other calls send them nothing until it ends."""
        now = self._clock()
        for batch in batches:
            breaker = self._breakers.get(batch.target.node)
            if breaker is not None:
                breaker.probe(now)

    def _open_breakers(self, given_up: Mapping[Node, str]) -> None:
        now = self._clock()
        for node, why in given_up.items():
            self._failing[node] = why
            self._breakers.setdefault(node, Breaker(BREAKER_SECONDS)).fail(now)

    def _note_answer(self, node: Node) -> None:
        self._breakers.pop(node, None)
        self._failing.pop(node, None)

    def _fetch_map(self, silent: set[Node]) -> SlotMap:
        """Read the map of the slots: from the server that gave the last one, else from all others at once."""
        unlikely = silent | self._unheard
        if unlikely:  # the name of a seed may lead elsewhere by now, and its connection would not
            self._pools.disconnect_idle(self._seeds)
        nodes = self._map_sources(unlikely)
        try:
            winner, reply = first_answer([partial(self._ask_for_map, node) for node in nodes])
        except NoneAnsweredError as error:
            self._is_map_doubtful = True
            self._unheard |= set(nodes)
            raise error.cause from None
        node = nodes[winner]
        self._note_answer(node)
        self._unheard = (self._unheard | set(nodes[:1])) - {node}  # others may merely be slower than the winner
        if isinstance(reply, Exception):
            is_login = isinstance(reply, exceptions.AuthenticationError | exceptions.NoPermissionError)
            hint = "" if is_login else ": if it is no Cluster, give a redis:// URL"
            raise IndexRefusedError(f"{self._message(reply)}{hint}") from None
        self._last_source = node
        return self._use_map(SlotMap.from_reply(reply, node))

    def _map_sources(self, unlikely: Collection[Node]) -> list[Node]:
        """Return the servers to ask for the map: the one of the last map, the seeds, others; silent ones last."""
        last = () if self._last_source is None else (self._last_source,)
        known = dict.fromkeys((*last, *self._seeds, *(() if self._map is None else self._map.nodes)))
        if not known:
            raise IndexRefusedError(f"index at {self.where}: no server is named")
        return sorted(known, key=lambda node: node in unlikely)[:MAP_SOURCES_MAX]

    def _ask_for_map(self, node: Node) -> Any:
        """Return a server's reply to CLUSTER SLOTS, a refusal too; raise if there is none."""
        (outcome,) = self._pools.exchange([(Target(node), [CLUSTER_SLOTS])])
        reply = outcome if isinstance(outcome, Exception) else outcome[0]
        if isinstance(reply, Exception) and not isinstance(reply, _REFUSALS):
            raise reply
        return reply

    def _ping(self, node: Node) -> None:
        (outcome,) = self._pools.exchange([(Target(node, replica=True), [("PING",)])])
        if isinstance(outcome, Exception):
            raise outcome

    def _message(self, reply: Exception) -> str:
        (error,) = self._caller.reader.read([CLUSTER_SLOTS], [reply])
        return str(error)

    def _use_map(self, slots: SlotMap) -> SlotMap:
        self._map, self._fetched, self._is_map_doubtful = slots, self._clock(), False
        self._pools.keep({*slots.nodes, *self._seeds})
        return slots


class _NodeClient:
    """A client of one server of a Cluster, which follows no redirection."""

    def __init__(self, pools: Pools, node: Node, caller: CallRunner) -> None:
        self.where = caller.reader.where
        self._pools = pools
        self._node = node
        self._caller = caller

    def run(self, commands: Sequence[Command], call: Call | None = None) -> list[Any]:
        """Send commands to this server and return their replies."""
        return self._caller.run(call, lambda: self._run(commands))

    def _run(self, commands: Sequence[Command]) -> list[Any]:
        (outcome,) = self._pools.exchange([(Target(self._node), with_sources(commands))])
        if isinstance(outcome, Exception):
            raise outcome
        return self._caller.reader.read(commands, outcome)

    def servers(self) -> Sequence[Client]:
        """Return this client."""
        return [self]

    def close(self) -> None:
        """Do nothing: the Cluster's client closes the connections."""
