"""A link to a Cluster: each server that holds some of the keys is asked once, all of them at the same time."""

import itertools
from collections.abc import Sequence
from typing import Any

from redis import exceptions

from crossmount.errors import IndexRefusedError
from crossmount.index.address import Node
from crossmount.index.errand import ASK_MAP, Errand, Stop
from crossmount.index.link import Command, Link, Reader
from crossmount.index.pools import Pools
from crossmount.index.slots import SlotMap

PAUSE_SECONDS = 0.05
"""Before a command on keys that are just being moved is sent again."""


class ClusterLink:
    """A link to all servers of a Cluster.

    Args:
        pools: connections to them.
        seeds: servers to learn the others from.
        reader: reads replies.
        replicas: whether replicas may answer; then it is for reading alone.
    """

    def __init__(self, pools: Pools, seeds: Sequence[Node], reader: Reader, *, replicas: bool = False) -> None:
        self.where = reader.where
        self._pools = pools
        self._seeds = seeds
        self._reader = reader
        self._replicas = replicas
        self._turns = itertools.count()
        self._map: SlotMap | None = None

    async def run(self, commands: Sequence[Command]) -> list[Any]:
        """See `Link`; a command without a key goes to every server that is asked, and has one of their replies."""
        errand = Errand(commands, replicas=self._replicas, turn=next(self._turns))
        async with self._pools.call():
            while not errand.done:
                if errand.pause_wanted:
                    await self._pools.pause(PAUSE_SECONDS)
                slots = self._map
                if slots is None or errand.map_wanted:
                    slots = await self._learn(errand.lost)
                batches = errand.batches(slots)
                outcomes = await self._pools.exchange([(batch.stop, batch.commands) for batch in batches])
                for batch, outcome in zip(batches, outcomes, strict=True):
                    if isinstance(outcome, Exception):
                        errand.unanswered(batch, outcome)
                    else:
                        errand.answered(batch, outcome)
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

    async def _learn(self, lost: set[Node]) -> SlotMap:
        """Ask one server after another who serves what, those that did not answer before last."""
        known = dict.fromkeys((*(() if self._map is None else self._map.nodes), *self._seeds))
        trouble: Exception | None = None
        for node in sorted(known, key=lambda node: node in lost):
            (outcome,) = await self._pools.exchange([(Stop(node), [ASK_MAP])])
            reply = outcome if isinstance(outcome, Exception) else outcome[0]
            if isinstance(reply, exceptions.AuthenticationError | exceptions.ResponseError):
                raise IndexRefusedError(f"{self._said(reply)}: is it a Cluster, and the login right?") from None
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
        self._map = slots
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
