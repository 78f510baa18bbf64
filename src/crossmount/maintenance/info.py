"""What an index holds: counted, or estimated from a sample of its keys."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from crossmount.errors import IndexFailedError, InvalidInputError
from crossmount.index.backing_server import Server, server_of
from crossmount.index.decode import as_map, number
from crossmount.index.entries import read_entries, require_listable
from crossmount.index.hit_counter import days
from crossmount.maintenance.layer_counts import LayerCounts, RegistryInfo
from crossmount.redis.execute import ask
from crossmount.redis.key_scan import pages
from crossmount.redis.link import Link

MEASURED = 500
"""How many keys of each server are asked for their size in memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexInfo:
    """What an index holds, and how well it serves.

    Attributes:
        layers: layers that it knows.
        sources: repositories that hold them, summed over the layers.
        size: bytes of the layers, each once, as far as that is known.
        unsized: layers whose size nobody told.
        flagged: layers that may only be mounted.
        stranded: of these, the ones without any source: nobody can push them.
        registries: what is known by registry.
        newest: seconds since the layer that was renewed last was; None if no layer has a source.
        median: the same of the layer in the middle.
        oldest: the same of the layer that was not renewed for longest.
        asked: layers that pushers looked up in the last two weeks; None if the index does not count.
        known: of these, those that were there already, or could be mounted.
        keys: keys of ours on the server, all kinds together; None without a server.
        leases: uploads that are underway.
        memory: about how many bytes our keys take on the server; None if it does not tell.
        server_memory: bytes that the server takes for all that it holds; None if it does not tell.
        looked_at: keys that were looked at, whosever they are.
        estimated: whether numbers are estimates from a sample.
    """

    layers: int
    sources: int
    size: int
    unsized: int
    flagged: int
    stranded: int
    registries: Mapping[str, RegistryInfo]
    newest: float | None
    median: float | None
    oldest: float | None
    asked: int | None = None
    known: int | None = None
    keys: int | None = None
    leases: int = 0
    memory: int | None = None
    server_memory: int | None = None
    looked_at: int = 0
    estimated: bool = False

    @property
    def hit_rate(self) -> float | None:
        """Which part of the layers that pushers looked up was known; None if nobody looked."""
        return self.known / self.asked if self.asked and self.known is not None else None

    def to_json(self) -> dict[str, Any]:
        """Return the document that `crossmount index info --json` prints, units in the names."""
        return {
            "layers": self.layers,
            "sources": self.sources,
            "size_bytes": self.size,
            "layers_of_unknown_size": self.unsized,
            "must_mount": {"layers": self.flagged, "without_sources": self.stranded},
            "registries": {
                name: {"layers": each.layers, "sources": each.sources, "size_bytes": each.size}
                for name, each in self.registries.items()
            },
            "renewed_seconds_ago": {"newest": self.newest, "median": self.median, "oldest": self.oldest},
            "look_ups": {"layers": self.asked, "known": self.known, "hit_rate": self.hit_rate},
            "keys": self.keys,
            "leases": self.leases,
            "memory_bytes": self.memory,
            "server_memory_bytes": self.server_memory,
            "keys_looked_at": self.looked_at,
            "estimated": self.estimated,
        }


async def index_info(
    index: object, *, sample: int | None = None, clock: Callable[[], float] = time.time
) -> IndexInfo:
    """Count what an index holds. It walks through all keys of the server: for people, not for pushes.

    Args:
        index: made by `open_index`, or laid over such a one.
        sample: look at about so many keys, whosever they are, and estimate the rest; None looks at all of ours.
        clock: epoch seconds.

    Raises:
        InvalidInputError: the index cannot be listed, or the sample is empty.
        IndexFailedError: the index does not serve, or does not allow to look at all keys.
    """
    if sample is not None and sample < 1:
        raise InvalidInputError(f"sample: {sample}: give a number of keys, at least 1")
    counted = LayerCounts()
    for entry in require_listable(index) or ():
        counted.add(entry)
    server = server_of(index)
    if server is None:
        return _info(counted, _Seen())
    seen = _Seen()
    parts = await server.link.parts()
    for part in parts:
        found = await _Part(server, part, clock, None if sample is None else -(-sample // len(parts))).count()
        counted.merge(found.census, found.factor)
        seen.merge(found)
    asked, known = await _look_ups(server, clock())
    return _info(counted, seen, asked, known)


def _info(counted: LayerCounts, seen: "_Seen", asked: int | None = None, known: int | None = None) -> IndexInfo:
    newest, median, oldest = counted.ages()
    return IndexInfo(
        layers=round(counted.layers),
        sources=round(counted.sources),
        size=round(counted.size),
        unsized=round(counted.unsized),
        flagged=round(counted.flagged),
        stranded=round(counted.stranded),
        registries=counted.by_registry(),
        newest=newest,
        median=median,
        oldest=oldest,
        asked=asked,
        known=known,
        keys=None if asked is None else round(seen.keys),
        leases=round(seen.leases),
        memory=None if seen.memory is None or asked is None else round(seen.memory),
        server_memory=seen.server_memory if asked is not None else None,
        looked_at=seen.looked_at,
        estimated=seen.estimated,
    )


@dataclass(slots=True)
class _Seen:
    """What servers hold besides layers, all of them together."""

    keys: float = 0
    leases: float = 0
    memory: float | None = 0
    server_memory: int | None = 0
    looked_at: int = 0
    estimated: bool = False

    def merge(self, part: "_Part") -> None:
        """Add what one server holds."""
        self.keys += part.keys * part.factor
        self.leases += part.leases * part.factor
        self.looked_at += part.looked_at
        self.estimated = self.estimated or part.factor > 1
        if self.memory is not None:
            mean = part.mean_memory
            self.memory = None if mean is None else self.memory + mean * part.keys * part.factor
        if self.server_memory is not None:
            own = part.server_memory
            self.server_memory = None if own is None else self.server_memory + own


@dataclass(slots=True)
class _Part:
    """One server's share, being counted.

    Attributes:
        factor: how many keys each key that was looked at stands for.
    """

    server: Server
    part: Link
    clock: Callable[[], float]
    budget: int | None
    census: LayerCounts = field(default_factory=LayerCounts)
    keys: int = 0
    leases: int = 0
    looked_at: int = 0
    factor: float = 1.0
    server_memory: int | None = None
    measured: list[int] | None = field(default_factory=list)

    async def count(self) -> "_Part":
        """Walk through the server's keys, as far as the budget goes."""
        info, size = await self.part.run([("INFO", "memory"), ("DBSIZE",)])
        used = info.get("used_memory") if isinstance(info, dict) else None
        self.server_memory = used if isinstance(used, int) else None
        # of a sample it has to be known what part it is of all, so it takes whatever keys there are
        pattern = self.server.keys.all_keys() if self.budget is None else "*"
        done = False
        async with aclosing(pages(self.part, pattern)) as found:
            async for page in found:
                await self._look_at(page.keys)
                done = not page.cursor
                if self.budget is not None and self.looked_at >= self.budget:
                    break
        if not done:
            if not isinstance(size, int):
                raise (
                    size
                    if isinstance(size, IndexFailedError)
                    else InvalidInputError("the index cannot be sampled")
                )
            self.factor = max(size / self.looked_at, 1.0)
        return self

    @property
    def mean_memory(self) -> float | None:
        """How many bytes a key takes, on average."""
        if self.measured is None:
            return None
        return sum(self.measured) / len(self.measured) if self.measured else 0.0

    async def _look_at(self, keys: Sequence[bytes]) -> None:
        self.looked_at += len(keys)
        ours = [(key, named) for key in keys if (named := self.server.keys.parse(key)) is not None]
        self.keys += len(ours)
        self.leases += sum(1 for _, named in ours if named.kind == "lease")
        for entry in await read_entries(self.server, [key for key, _ in ours], self.clock()):
            self.census.add(entry)
        await self._measure([key for key, _ in ours])

    async def _measure(self, keys: Sequence[bytes]) -> None:
        """Ask for the size of the first few: a walk goes through keys in no order, so they are like all others."""
        if self.measured is None:
            return
        wanted = keys[: MEASURED - len(self.measured)]
        replies = await self.part.run([("MEMORY", "USAGE", key) for key in wanted]) if wanted else []
        if any(isinstance(reply, IndexFailedError) for reply in replies):
            self.measured = None  # not allowed, or a server that does not know it
        else:
            self.measured += [reply for reply in replies if isinstance(reply, int)]


async def _look_ups(server: Server, now: float) -> tuple[int, int]:
    """Return how many layers were asked for, and how many of them were known, on the days that are kept."""
    replies = await ask(server.link, [("HGETALL", server.keys.stats(day)) for day in days(now)])
    fields = [as_map(reply) for reply in replies]
    asked, known = (sum(number(each.get(name)) or 0 for each in fields) for name in (b"asked", b"known"))
    return asked, min(known, asked)
