"""The prune: every source that the index knows is asked for at its registry, and what is gone is forgotten."""

import fnmatch
import hashlib
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import get_args

from crossmount import events
from crossmount._parsing import one_line
from crossmount.errors import InvalidInputError
from crossmount.index.adapt import widen
from crossmount.index.backing_server import Server, server_of
from crossmount.index.entries import read_entries, require_listable
from crossmount.index.entry import LayerEntry
from crossmount.index.protocol import MountableLayers, MountIndex
from crossmount.maintenance.prune_checkpoint import PruneCheckpoint, ServerWalk
from crossmount.maintenance.prune_report import PruneReport
from crossmount.maintenance.verifier import Verifier
from crossmount.oci import Digest, Repository
from crossmount.oci.reference import normalise_registry
from crossmount.redis.key_scan import pages
from crossmount.registry import ClientOptions, RegistryClient
from crossmount.transfer.concurrency import run_all

REQUESTS = 8
PAGE = 200
"""About how many keys the server looks at in one round trip, and so how much is verified again after a kill."""

FLAGGED_MAX = 10_000
"""How many must-mount layers are kept in mind, to say which have no source left."""

_REMARKS_MAX = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneSelection:
    """Which sources are verified.

    Attributes:
        registry: only those there, normalised; None is everywhere.
        patterns: only repositories whose name fits one of them; none means all.
        percent: so many of these, chosen by chance.
    """

    registry: str | None = None
    patterns: tuple[str, ...] = ()
    percent: float = 100.0

    def takes(self, layer: Digest, source: Repository, salt: str) -> bool:
        """Tell whether a source is one of them; the same `salt` chooses the same sample."""
        if self.registry is not None and source.registry != self.registry:
            return False
        if self.patterns and not any(fnmatch.fnmatchcase(source.name, pattern) for pattern in self.patterns):
            return False
        if self.percent >= 100:
            return True
        drawn = hashlib.blake2b(f"{layer} {source}".encode(), key=salt.encode(), digest_size=8).digest()
        return int.from_bytes(drawn, "big") < self.percent / 100 * 2**64


async def prune(
    index: MountableLayers,
    *,
    registry: str | None = None,
    patterns: Iterable[str] = (),
    sample: float = 100.0,
    options: ClientOptions = ClientOptions(),  # noqa: B008 a frozen value
    connect: Callable[[str], RegistryClient] | None = None,
    requests: int = REQUESTS,
    dry_run: bool = False,
    afresh: bool = False,
    observer: events.Observer = events.ignore,
    clock: Callable[[], float] = time.monotonic,
    wall: Callable[[], float] = time.time,
    salt: str | None = None,
) -> PruneReport:
    """Verify by HEAD what the index knows, and forget for everybody what is gone.

    What may not be read, what may be hidden from us and what a registry does not tell of stays, and so do
    must-mount flags. What is there is not renewed: that it is there does not make it used. A prune that was killed
    within the last day is gone on with if it is called with the same choice again.

    Args:
        index: made by `open_index`, or laid over such a one.
        registry: verify only what is there; None asks every registry that the index names, each with the
            credentials that are stored for it.
        patterns: only repositories that fit one of them, as in `team/*`, where `*` is any text; none means all.
        sample: verify only so many percent, chosen by chance.
        options: how to reach registries; its `rate` says how often each is asked.
        connect: makes the client of a registry instead; it is closed here.
        requests: how many requests are on their way at once.
        dry_run: forget nothing.
        afresh: do not go on with a prune that was not finished.
        observer: told of each source, and how far it is.
        clock: seconds, from any start.
        wall: epoch seconds.
        salt: 32 hex digits that choose the sample; by default they are drawn.

    Raises:
        InvalidInputError: the index cannot be listed, a registry, pattern or sample is none.
        IndexFailedError: the index does not serve, or does not allow to look at all keys.
    """
    started = clock()
    if not 0 < sample <= 100:
        raise InvalidInputError(f"sample: {sample}: give percent, above 0 and at most 100")
    if not all(patterns := tuple(dict.fromkeys(patterns))):
        raise InvalidInputError("a pattern of repositories is empty: nothing fits it; give one as in 'team/*'")
    choice = PruneSelection(
        registry=None if registry is None else normalise_registry(registry),
        patterns=patterns,
        percent=sample,
    )
    made = replace(options, max_connections=min(requests, options.max_connections))
    here, server = require_listable(index) or (), server_of(index)
    async with Verifier(
        connect or (lambda name: RegistryClient(name, options=made, observer=observer))
    ) as verifier:
        work = _Prune(
            index=widen(index),
            choice=choice,
            verifier=verifier,
            requests=requests,
            dry_run=dry_run,
            salt=salt or secrets.token_hex(16),
            observer=observer,
        )
        for start in range(0, len(here), PAGE):
            await work.take(here[start : start + PAGE])
        resumed = False
        if server is not None:
            resumed = await work.walk(server, wall, afresh=afresh)
        return PruneReport(
            dry_run=dry_run,
            resumed=resumed,
            counts={verdict: work.counts[verdict] for verdict in get_args(events.Verdict)},
            unreachable=dict(verifier.lost),
            stranded=await work.stranded(),
            remarks=tuple(work.remarks),
            seconds=clock() - started,
        )


_Place = tuple[Digest, str]
"""A layer on a registry."""

Renewed = Callable[[Iterable[Digest]], Awaitable[Collection[_Place]]]


def _ends(entries: Iterable[LayerEntry], now: float) -> dict[_Place, int]:
    """Return until when the sources of layers are believed (epoch seconds), which each recording puts off."""
    return {
        (entry.layer, registry): int(now) + held.seconds_left
        for entry in entries
        for registry, held in entry.registries.items()
    }


async def _renewed(
    server: Server, wall: Callable[[], float], before: Mapping[_Place, int], layers: Iterable[Digest]
) -> Collection[_Place]:
    """Return where some layers were recorded anew since `before`, in a few round trips."""
    now = wall()
    entries = await read_entries(server, [server.keys.flags(layer).encode() for layer in layers], now)
    return {place for place, ends in _ends(entries, now).items() if ends > before.get(place, 0)}


@dataclass(slots=True, kw_only=True)
class _Prune:
    """One prune under way."""

    index: MountIndex
    choice: PruneSelection
    verifier: Verifier
    requests: int
    dry_run: bool
    salt: str
    observer: events.Observer
    counts: Counter[events.Verdict] = field(default_factory=Counter)
    remarks: list[str] = field(default_factory=list)
    flagged: dict[Digest, set[Repository]] = field(default_factory=dict)

    async def walk(self, server: Server, wall: Callable[[], float], *, afresh: bool) -> bool:
        """Walk through a server, page by page; return whether an earlier prune was gone on with."""
        choice = self.choice
        asked = ["" if choice.registry is None else choice.registry, str(choice.percent), str(self.dry_run)]
        bookmark = PruneCheckpoint(server, [*asked, *sorted(choice.patterns)], salt=self.salt)
        walks = await bookmark.begin(afresh=afresh)
        self.salt = bookmark.salt
        total = await _total(walks)
        for walk in walks:
            if walk.done:
                continue
            found = pages(walk.part, server.keys.all_layers(), count=PAGE, cursor=walk.cursor)
            async with aclosing(found):
                async for page in found:
                    now = wall()
                    entries = await read_entries(server, page.keys, now)
                    await self.take(entries, partial(_renewed, server, wall, _ends(entries, now)))
                    walk.cursor, walk.done, walk.keys = page.cursor, not page.cursor, walk.keys + PAGE
                    await bookmark.note(walk)
                    self.observer(_how_far(walks, total))
        await bookmark.end()
        return bookmark.resumed

    async def take(self, entries: Sequence[LayerEntry], renewed: Renewed | None = None) -> None:
        """Verify the sources of some layers side by side, then forget those that are gone.

        Args:
            entries: the layers.
            renewed: tells which were recorded anew since `entries` were read.
        """
        for entry in entries:
            if entry.must_mount and len(self.flagged) < FLAGGED_MAX:
                self.flagged.setdefault(entry.layer, set())
        pairs = iter(
            [
                (entry.layer, source)
                for entry in entries
                for registry, held in entry.registries.items()
                for source in (Repository(registry, name) for name in held.names)
                if self.choice.takes(entry.layer, source, self.salt)
            ]
        )
        gone: dict[Digest, list[Repository]] = {}

        async def work() -> None:
            for layer, source in pairs:
                verdict, cause = await self.verifier.verify(layer, source)
                if verdict == "gone":
                    gone.setdefault(layer, []).append(source)
                else:
                    self._tell(layer, source, verdict, cause)

        await run_all([work] * self.requests)
        await self._forget(gone, renewed)
        await self.verifier.tidy()

    async def _forget(self, gone: dict[Digest, list[Repository]], renewed: Renewed | None) -> None:
        """Forget sources, if their registries are still there, and nobody pushed there meanwhile."""
        registries = {source.registry for sources in gone.values() for source in sources}
        sure = {registry for registry in registries if await self.verifier.answers(registry)}
        fresh = await renewed(gone) if renewed is not None and gone else frozenset[_Place]()
        for layer, named in gone.items():
            sources = [
                source
                for source in named
                if (layer, source.registry) not in fresh or await self._still_gone(layer, source)
            ]
            certain = [source for source in sources if source.registry in sure]
            if layer in self.flagged:
                self.flagged[layer].update(certain)
            if certain and not self.dry_run:
                await self.index.forget(layer, *certain)
            for source in sources:
                if source in certain:
                    self._tell(layer, source, "gone")
                else:
                    self._tell(layer, source, "unreachable", self.verifier.lost[source.registry])

    async def _still_gone(self, layer: Digest, source: Repository) -> bool:
        """Ask once more, and tell what the registry says if it is anything else by now."""
        verdict, cause = await self.verifier.verify(layer, source)
        if verdict != "gone":
            self._tell(layer, source, verdict, cause)
        return verdict == "gone"

    async def stranded(self) -> tuple[Digest, ...]:
        """Return the must-mount layers that were met and have no source any more, or will not have."""
        return tuple(
            [
                layer
                for layer, gone in sorted(self.flagged.items())
                if not set(await self.index.locations(layer)) - gone
            ]
        )

    def _tell(self, layer: Digest, source: Repository, verdict: events.Verdict, cause: str = "") -> None:
        self.counts[verdict] += 1
        if verdict == "failed" and len(self.remarks) < _REMARKS_MAX:
            self.remarks.append(one_line(cause))
        self.observer(events.SourceVerified(layer=layer, source=source, verdict=verdict, cause=cause))


def _how_far(walks: Sequence[ServerWalk], total: int | None) -> events.IndexWalked:
    """Say how far it is; a page is counted as its size, which it is only about."""
    keys = sum(each.keys for each in walks)
    if total is not None:
        keys = total if all(each.done for each in walks) else min(keys, total)
    return events.IndexWalked(keys=keys, total=total)


async def _total(walks: Sequence[ServerWalk]) -> int | None:
    """Return how many keys the servers hold, whosever they are; None if they do not say."""
    sizes = [(await walk.part.run([("DBSIZE",)]))[0] for walk in walks]
    return sum(sizes) if all(isinstance(size, int) for size in sizes) else None
