"""A link to a Cluster: each server that holds some of the keys is asked once, all of them at the same time.

A server that does not answer takes only what it holds along: that is refused, and for some seconds unasked, unless
another server serves it by then.
"""

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from crossmount.errors import IndexRefusedError
from crossmount.redis.address import Node
from crossmount.redis.link import Command, Link, Reader
from crossmount.redis.pools import Pools
from crossmount.redis.routing import ASK_MAP, Errand, Stop
from crossmount.redis.slots import SlotMap
from redis import exceptions

PAUSE_SECONDS = 0.05
"""Before a command on keys that are just being moved is sent again."""

ALONE_SECONDS = 5.0
"""How long a server is left alone that did not answer; each time that it still does not, twice as long."""

RELEARN_SECONDS = 0.5
"""How often the others are asked meanwhile whether one of them has taken its place."""


@dataclass(slots=True)
class _Absence:
    """A server that does not answer: until when it is left alone, and for how long that is."""

    until: float
    seconds: float = ALONE_SECONDS


class ClusterLink:
    """A link to all servers of a Cluster.

    Args:
        pools: connections to them.
        seeds: servers to learn the others from.
        reader: reads replies.
        replicas: whether replicas may answer; then it is for reading alone.
        clock: seconds, for how long a server is left alone.
    """

    def __init__(
        self,
        pools: Pools,
        seeds: Sequence[Node],
        reader: Reader,
        *,
        replicas: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.where = reader.where
        self._pools = pools
        self._seeds = seeds
        self._reader = reader
        self._replicas = replicas
        self._turns = itertools.count()
        self._map: SlotMap | None = None
        self._clock = clock
        self._absences: dict[Node, _Absence] = {}
        self._learnt = float("-inf")

    async def run(self, commands: Sequence[Command]) -> list[Any]:
        """See `Link`; a command without a key goes to every server that is asked, and has one of their replies."""
        errand = Errand(commands, replicas=self._replicas, turn=next(self._turns), suspects=tuple(self._absences))
        async with self._pools.call():
            while not errand.done:
                if errand.pause_wanted:
                    await self._pools.pause(PAUSE_SECONDS)
                slots = self._map
                absent = self._absent()
                if slots is None or errand.map_wanted or (absent and self._is_map_old()):
                    slots = await self._learn(errand.lost | absent)
                batches = errand.batches(slots, absent=absent)
                outcomes = await self._pools.exchange([(batch.stop, batch.commands) for batch in batches])
                for batch, outcome in zip(batches, outcomes, strict=True):
                    if isinstance(outcome, Exception):
                        errand.unanswered(batch, outcome)
                    else:
                        errand.answered(batch, outcome)
                        self._absences.pop(batch.stop.node, None)
                self._leave_alone(errand.gone)
                if errand.map_told is not None:
                    await self._take(SlotMap.from_reply(*errand.map_told))
            return self._reader.read(commands, errand.replies)

    async def parts(self) -> Sequence[Link]:
        """See `Link`: one for each master."""
        async with self._pools.call():
            slots = await self._learn(set())
        return [ClusterPart(self._pools, node, self._reader) for node in slots.masters]

    async def aclose(self) -> None:
        """See `Link`."""
        with self._reader.errors():
            await self._pools.aclose()

    def _absent(self) -> set[Node]:
        now = self._clock()
        return {node for node, absence in list(self._absences.items()) if absence.until > now}

    def _is_map_old(self) -> bool:
        return self._clock() - self._learnt > RELEARN_SECONDS

    def _leave_alone(self, gone: set[Node]) -> None:
        now = self._clock()
        for node in gone:
            absence = self._absences.get(node)
            if absence is None:
                self._absences[node] = _Absence(now + ALONE_SECONDS)
            elif absence.until <= now:
                absence.seconds *= 2
                absence.until = now + absence.seconds

    async def _learn(self, lost: set[Node]) -> SlotMap:
        """Ask one server after another who serves what, those that did not answer before last."""
        known = dict.fromkeys((*(() if self._map is None else self._map.nodes), *self._seeds))
        trouble: Exception | None = None
        for node in sorted(known, key=lambda node: node in lost):
            (outcome,) = await self._pools.exchange([(Stop(node), [ASK_MAP])])
            reply = outcome if isinstance(outcome, Exception) else outcome[0]
            if isinstance(reply, exceptions.AuthenticationError | exceptions.ResponseError):
                is_login = isinstance(reply, exceptions.AuthenticationError | exceptions.NoPermissionError)
                hint = "" if is_login else ": if it is no Cluster, give a redis:// URL"
                raise IndexRefusedError(f"{self._said(reply)}{hint}") from None
            if not isinstance(reply, Exception):
                return await self._take(SlotMap.from_reply(reply, node))
            trouble = reply
        if trouble is None:
            raise IndexRefusedError(f"index at {self.where}: no server is named")
        raise trouble

    def _said(self, reply: Exception) -> str:
        (error,) = self._reader.read([ASK_MAP], [reply])
        return str(error)

    async def _take(self, slots: SlotMap) -> SlotMap:
        self._map, self._learnt = slots, self._clock()
        await self._pools.keep({*slots.nodes, *self._seeds})
        return slots


class ClusterPart:
    """A link to one server of a Cluster, which follows no redirection."""

    def __init__(self, pools: Pools, node: Node, reader: Reader) -> None:
        self.where = reader.where
        self._pools = pools
        self._node = node
        self._reader = reader

    async def run(self, commands: Sequence[Command]) -> list[Any]:
        """See `Link`."""
        async with self._pools.call():
            (outcome,) = await self._pools.exchange([(Stop(self._node), commands)])
            if isinstance(outcome, Exception):
                raise outcome
            return self._reader.read(commands, outcome)

    async def parts(self) -> Sequence[Link]:
        """See `Link`."""
        return [self]

    async def aclose(self) -> None:
        """Leave it: the Cluster's link closes it."""
