"""The prune: verifies at its registry every source that the index names, and removes the sources that are gone."""

import fnmatch
import hashlib
import secrets
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import field, replace
from functools import partial

from crossmount import events
from crossmount._dataclass import dataclass
from crossmount._tasks import run_all
from crossmount.errors import InvalidInputError
from crossmount.index.adapt import adapt
from crossmount.index.entries import read_entries, require_listable
from crossmount.index.protocol import BackingServer, LayerEntry, MountableLayers, MountIndex, backing_server
from crossmount.maintenance.prune_state import PruneCheckpoint, PruneReport, ServerScan, VerdictCounts
from crossmount.maintenance.repair import mend_halves
from crossmount.maintenance.verifier import Verifier
from crossmount.oci import Digest, Repository
from crossmount.oci.reference import normalise_registry
from crossmount.redis.execute import scan_pages
from crossmount.registry import ClientOptions, RegistryClient
from crossmount.registry.credentials.given import bound_to, is_for_one

REQUESTS = 8
PAGE = 200
"""About how many keys the server looks at in one round trip, and so how much is verified again after a kill."""

FLAGGED_MAX = 10_000
"""For how many must-mount layers the prune can report that no source is left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneSelection:
    """The sources to verify.

    Attributes:
        registry: only sources on this registry, normalised; None selects all registries.
        patterns: only repositories whose name matches one of these; none selects all.
        percent: how many of these, drawn at random.
    """

    registry: str | None = None
    patterns: tuple[str, ...] = ()
    percent: float = 100.0

    def selects(self, layer: Digest, source: Repository, salt: str) -> bool:
        """Return whether a source is selected; the same `salt` draws the same sample."""
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
    salt: str | None = None,
) -> PruneReport:
    """Verify the index's sources by HEAD, and remove for everybody the ones that are gone.

    A source stays if the account may not read it, if it may only be hidden from the account, or if the registry
    does not answer; must-mount flags stay too. A source that exists is not renewed, since that it exists does not
    mean that it is used. A prune that was killed within the last day is resumed by the next call with the same
    selection.

    Args:
        index: made by `open_index`, or a wrapper of such an index.
        registry: verify only sources on this registry; None asks every registry that the index names, each with
            the credentials that are stored for it.
        patterns: verify only repositories that match one of these, as in `team/*`, where `*` is any text; none
            verifies all.
        sample: verify only this percentage, drawn at random.
        options: how to reach registries; its `rate` limits the requests to each of them.
        connect: makes the client of a registry instead; the prune closes it.
        requests: the largest number of concurrent requests.
        dry_run: remove nothing.
        afresh: start over instead of resuming an unfinished prune.
        observer: receives each verdict, and how far the prune is.
        clock: seconds, from any start.
        salt: 32 hex digits that draw the sample; random by default.

    Raises:
        InvalidInputError: the index cannot be listed, or a registry, a pattern or the sample is not valid.
        IndexFailedError: the index did not answer, refused, or its user may not list keys.
    """
    started = clock()
    if not 0 < sample <= 100:
        raise InvalidInputError(f"sample: {sample}: give percent, above 0 and at most 100")
    if not all(patterns := tuple(dict.fromkeys(patterns))):
        raise InvalidInputError("a pattern of repositories is empty and matches nothing; give one as in 'team/*'")
    selection = PruneSelection(
        registry=None if registry is None else normalise_registry(registry),
        patterns=patterns,
        percent=sample,
    )
    if selection.registry is None and is_for_one(options.credentials):
        raise InvalidInputError("credentials: for which registry? give a mapping by registry, or `registry`")
    made = replace(
        options,
        max_connections=min(requests, options.max_connections),
        credentials=bound_to(selection.registry or "", options.credentials),
    )
    local, server = require_listable(index) or (), backing_server(index)
    async with Verifier(
        connect or (lambda name: RegistryClient(name, options=made, observer=observer))
    ) as verifier:
        work = _Prune(
            index=adapt(index),
            selection=selection,
            verifier=verifier,
            requests=requests,
            dry_run=dry_run,
            salt=salt or secrets.token_hex(16),
            verdicts=VerdictCounts(events.never_raising(observer)),
        )
        for start in range(0, len(local), PAGE):
            await work.verify(local[start : start + PAGE])
        resumed = False
        if server is not None:
            resumed = await work.verify_server(server, clock, afresh=afresh)
        return PruneReport(
            dry_run=dry_run,
            resumed=resumed,
            counts=work.verdicts.all(),
            unreachable=dict(verifier.lost),
            stranded=await work.stranded(),
            mended=work.mended,
            remarks=tuple(work.verdicts.remarks),
            seconds=clock() - started,
        )


_LayerOnRegistry = tuple[Digest, str]

Renewed = Callable[[Iterable[_LayerOnRegistry]], Awaitable[Collection[_LayerOnRegistry]]]


def _ends(entries: Iterable[LayerEntry], now: float) -> dict[_LayerOnRegistry, int]:
    """Return when the sources of layers expire (seconds, from any start); each recording postpones that."""
    return {
        (entry.layer, registry): int(now) + sources.seconds_left
        for entry in entries
        for registry, sources in entry.registries.items()
    }


async def _renewed(
    server: BackingServer,
    clock: Callable[[], float],
    before: Mapping[_LayerOnRegistry, int],
    places: Iterable[_LayerOnRegistry],
) -> Collection[_LayerOnRegistry]:
    """Return which layers were recorded again since `before` was read, and on which registries."""
    asked = list(places)
    now = clock()
    keys = [server.keys.sources(*place) for place in asked] + [server.keys.flags(layer) for layer, _ in asked]
    ends = _ends(await read_entries(server, [key.encode() for key in dict.fromkeys(keys)]), now)
    # a time to live is rounded to seconds
    return {place for place in asked if ends.get(place, 0) > before.get(place, 0) + 1}


@dataclass(slots=True, kw_only=True)
class _Prune:
    """A prune in progress."""

    index: MountIndex
    selection: PruneSelection
    verifier: Verifier
    requests: int
    dry_run: bool
    salt: str
    verdicts: VerdictCounts
    flagged: dict[Digest, set[Repository]] = field(default_factory=dict)
    mended: int = 0

    async def verify_server(self, server: BackingServer, clock: Callable[[], float], *, afresh: bool) -> bool:
        """Verify all layers on a server, page by page; return whether an unfinished prune was resumed."""
        chosen = self.selection
        choice = ["" if chosen.registry is None else chosen.registry, str(chosen.percent), str(self.dry_run)]
        checkpoint = PruneCheckpoint(server, [*choice, *sorted(chosen.patterns)], salt=self.salt)
        scans = await checkpoint.begin(afresh=afresh)
        self.salt = checkpoint.salt
        total = await _total(scans)
        for scan in scans:
            if scan.done:
                continue
            found = scan_pages(scan.link, server.keys.all_layers(), count=PAGE, cursor=scan.cursor)
            async with aclosing(found):
                async for page in found:
                    now = clock()
                    entries = await read_entries(server, page.keys)
                    await self.verify(entries, partial(_renewed, server, clock, _ends(entries, now)))
                    if not self.dry_run:
                        self.mended += await mend_halves(server, page.keys)
                    scan.cursor, scan.done, scan.keys = page.cursor, not page.cursor, scan.keys + PAGE
                    await checkpoint.save(scan)
                    self.verdicts.observer(_progress(scans, total))
        await checkpoint.end()
        return checkpoint.resumed

    async def verify(self, entries: Sequence[LayerEntry], renewed: Renewed | None = None) -> None:
        """Verify the selected sources of some layers concurrently, then remove those that are gone.

        Args:
            entries: the layers.
            renewed: returns which of them were recorded again since `entries` were read.
        """
        for entry in entries:
            if entry.must_mount and len(self.flagged) < FLAGGED_MAX:
                self.flagged.setdefault(entry.layer, set())
        pairs = iter(
            [
                (entry.layer, source)
                for entry in entries
                for registry, sources in entry.registries.items()
                for source in (Repository(registry, name) for name in sources.names)
                if self.selection.selects(entry.layer, source, self.salt)
            ]
        )
        gone: dict[Digest, list[Repository]] = {}

        async def work() -> None:
            for layer, source in pairs:
                verdict, cause = await self.verifier.verify(layer, source)
                if verdict == "gone":
                    gone.setdefault(layer, []).append(source)
                else:
                    self.verdicts.add(layer, source, verdict, cause)

        await run_all([work] * self.requests)
        await self._remove(gone, renewed)
        await self.verifier.close_if_many()

    async def _remove(self, gone: dict[Digest, list[Repository]], renewed: Renewed | None) -> None:
        """Remove sources whose registries still answer, unless a push recorded them again meanwhile."""
        registries = {source.registry for sources in gone.values() for source in sources}
        answering = {registry for registry in registries if await self.verifier.answers(registry)}
        places = {(layer, source.registry) for layer, sources in gone.items() for source in sources}
        fresh = await renewed(places) if renewed is not None and gone else frozenset[_LayerOnRegistry]()
        for layer, named in gone.items():
            sources = [
                source
                for source in named
                if (layer, source.registry) not in fresh or await self._still_gone(layer, source)
            ]
            certain = [source for source in sources if source.registry in answering]
            if layer in self.flagged:
                self.flagged[layer].update(certain)
            if certain and not self.dry_run:
                await self.index.forget(layer, *certain)
            for source in sources:
                if source in certain:
                    self.verdicts.add(layer, source, "gone")
                else:
                    self.verdicts.add(layer, source, "unreachable", self.verifier.lost[source.registry])

    async def _still_gone(self, layer: Digest, source: Repository) -> bool:
        """Verify once more, and count the verdict if it is another one now."""
        verdict, cause = await self.verifier.verify(layer, source)
        if verdict != "gone":
            self.verdicts.add(layer, source, verdict, cause)
        return verdict == "gone"

    async def stranded(self) -> tuple[Digest, ...]:
        """Return the must-mount layers that have no source left, or would have none without a dry run."""
        return tuple(
            [
                layer
                for layer, gone in sorted(self.flagged.items())
                if not set(await self.index.locations(layer)) - gone
            ]
        )


def _progress(scans: Sequence[ServerScan], total: int | None) -> events.IndexWalked:
    """Return how far the prune is; the size of a page is only an estimate."""
    keys = sum(each.keys for each in scans)
    if total is not None:
        keys = total if all(each.done for each in scans) else min(keys, total)
    return events.IndexWalked(keys=keys, total=total)


async def _total(scans: Sequence[ServerScan]) -> int | None:
    """Return how many keys the servers have, ours and others; None if they do not say."""
    sizes = [(await scan.link.run([("DBSIZE",)]))[0] for scan in scans]
    return sum(sizes) if all(isinstance(size, int) for size in sizes) else None
