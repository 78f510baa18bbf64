"""The statistics of an index: counted, or estimated from a sample of its keys."""

from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import field
from typing import Any

from crossmount._dataclass import dataclass
from crossmount.errors import IndexFailedError, InvalidInputError
from crossmount.index.decode import as_map, number
from crossmount.index.entries import read_entries, require_listable
from crossmount.index.keys import days
from crossmount.index.look_up import TIME, seconds_of
from crossmount.index.protocol import BackingServer, backing_server
from crossmount.maintenance.layer_counts import LayerCounts, RegistryInfo
from crossmount.redis.execute import run_reads, scan_pages
from crossmount.redis.link import Link

MEASURED = 500
"""For how many keys of each server the size in memory is requested."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexInfo:
    """The contents of an index, and how often it helps.

    Attributes:
        layers: layers in it.
        sources: repositories that have them, summed over the layers.
        size: bytes of the layers, each once, as far as they are known.
        unsized: layers of unknown size.
        flagged: must-mount layers.
        stranded: must-mount layers without a source, which nobody can push.
        registries: the counts of each registry.
        newest: seconds since the most recent renewal of a layer; None if no layer has a source.
        median: seconds since the renewal of the median layer.
        oldest: seconds since the least recent renewal of a layer.
        asked: layers that pushers looked up in the last two weeks; None if the index does not count them.
        known: how many of those existed at the destination, or could be mounted.
        keys: keys of this namespace on the server, of all kinds; None without a server.
        leases: uploads in progress.
        memory: about how many bytes these keys use on the server; None if it does not say.
        server_memory: bytes that the server uses in all; None if it does not say.
        looked_at: keys that were looked at, those of other owners included.
        estimated: whether the numbers are estimates from a sample.
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
        """The share of the looked-up layers that was known; None without look-ups."""
        return self.known / self.asked if self.asked and self.known is not None else None

    def to_json(self) -> dict[str, Any]:
        """Return the document that `crossmount index info --json` prints, with the units in the names."""
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


async def index_info(index: object, *, sample: int | None = None) -> IndexInfo:
    """Count the contents of an index. It scans all keys of the server, so it is for operators, not for pushes.

    Args:
        index: made by `open_index`, or a wrapper of such an index.
        sample: look at about this many keys of any owner, and estimate the rest; None looks at all of our keys.

    Raises:
        InvalidInputError: the index cannot be listed, or the sample is empty.
        IndexFailedError: the index did not answer, refused, or its user may not list keys.
    """
    if sample is not None and sample < 1:
        raise InvalidInputError(f"sample: {sample}: give a number of keys, at least 1")
    counted = LayerCounts()
    for entry in require_listable(index) or ():
        counted.add(entry)
    server = backing_server(index)
    if server is None:
        return _info(counted, _KeyCounts())
    seen = _KeyCounts()
    links = await server.link.servers()
    for link in links:
        found = await _ServerCounts(server, link, None if sample is None else -(-sample // len(links))).count()
        counted.merge(found.layers, found.factor)
        seen.merge(found)
    asked, known = await _look_ups(server)
    return _info(counted, seen, asked, known)


def _info(
    counted: LayerCounts, seen: "_KeyCounts", asked: int | None = None, known: int | None = None
) -> IndexInfo:
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
class _KeyCounts:
    """The counts of keys, over all servers."""

    keys: float = 0
    leases: float = 0
    memory: float | None = 0
    server_memory: int | None = 0
    looked_at: int = 0
    estimated: bool = False

    def merge(self, other: "_ServerCounts") -> None:
        """Add the counts of one server."""
        self.keys += other.keys * other.factor
        self.leases += other.leases * other.factor
        self.looked_at += other.looked_at
        self.estimated = self.estimated or other.factor > 1
        if self.memory is not None:
            mean = other.mean_memory
            self.memory = None if mean is None else self.memory + mean * other.keys * other.factor
        if self.server_memory is not None:
            own = other.server_memory
            self.server_memory = None if own is None else self.server_memory + own


@dataclass(slots=True)
class _ServerCounts:
    """The counts of one server.

    Attributes:
        budget: look at about this many keys; None looks at all of our keys.
        factor: how many keys each key that was looked at stands for.
        measured: sizes in memory of some keys, in bytes; None if the server does not say.
    """

    server: BackingServer
    link: Link
    budget: int | None
    layers: LayerCounts = field(default_factory=LayerCounts)
    keys: int = 0
    leases: int = 0
    looked_at: int = 0
    factor: float = 1.0
    server_memory: int | None = None
    measured: list[int] | None = field(default_factory=list)

    async def count(self) -> "_ServerCounts":
        """Scan the server's keys until the budget is used."""
        info, size = await self.link.run([("INFO", "memory"), ("DBSIZE",)])
        used = info.get("used_memory") if isinstance(info, dict) else None
        self.server_memory = used if isinstance(used, int) else None
        # a sample takes keys of any owner, since only their total is known
        pattern = self.server.keys.all_keys() if self.budget is None else "*"
        done = False
        async with aclosing(scan_pages(self.link, pattern)) as found:
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
        """The mean size of a key in memory, in bytes."""
        if self.measured is None:
            return None
        return sum(self.measured) / len(self.measured) if self.measured else 0.0

    async def _look_at(self, keys: Sequence[bytes]) -> None:
        self.looked_at += len(keys)
        ours = [(key, named) for key in keys if (named := self.server.keys.parse(key)) is not None]
        self.keys += len(ours)
        self.leases += sum(1 for _, named in ours if named.kind == "lease")
        for entry in await read_entries(self.server, [key for key, _ in ours]):
            self.layers.add(entry)
        await self._measure([key for key, _ in ours])

    async def _measure(self, keys: Sequence[bytes]) -> None:
        """Request the size of the first keys: SCAN has no order, so they are a fair sample."""
        if self.measured is None:
            return
        wanted = keys[: MEASURED - len(self.measured)]
        replies = await self.link.run([("MEMORY", "USAGE", key) for key in wanted]) if wanted else []
        if any(isinstance(reply, IndexFailedError) for reply in replies):
            self.measured = None  # forbidden, or unknown to this server
        else:
            self.measured += [reply for reply in replies if isinstance(reply, int)]


async def _look_ups(server: BackingServer) -> tuple[int, int]:
    """Return how many layers were looked up on the stored days, and how many of those were known."""
    (time,) = await run_reads(server.link, [TIME])
    now = seconds_of(time, 0.0)
    replies = await run_reads(server.link, [("HGETALL", server.keys.stats(day)) for day in days(now)])
    fields = [as_map(reply) for reply in replies]
    asked, known = (sum(number(each.get(name)) or 0 for each in fields) for name in (b"asked", b"known"))
    return asked, min(known, asked)
