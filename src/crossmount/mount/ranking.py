"""The order in which sources are tried, and what the mounts of one push teach each other about them. No I/O.

`rank`, `plan`, `cover` and `spares` are pure functions with a total order, the same for every caller.

`SourceSearch` is the state of one push. A refusal is about a repository, so it counts for all layers at once. The
first requests all go to the best sources. After a failure each layer tries another source than the others do, so
that one round trip tests many. Failures are counted for the whole push, whatever the size of its layers.
"""

import asyncio
import hashlib
import heapq
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import accumulate

from crossmount._dataclass import dataclass
from crossmount.errors import AccessDeniedError
from crossmount.mount.decision import MountAnswer
from crossmount.oci import Digest, Repository
from crossmount.registry import Mounted

Ranked = Mapping[Digest, tuple[Repository, ...]]
"""The sources of each layer, best first."""


def rank(
    sources: Iterable[Repository], *, dest: Repository, proven: Collection[Repository] = ()
) -> list[Repository]:
    """Order `sources`: those first from which a mount most likely succeeds.

    1. Sources from which a mount succeeded just now.
    2. The longest leading path shared with `dest`: an account that can push to dest can most likely read them.
    3. A hash of (dest, source), so that different destinations use different sources.
    4. The name, which makes the order total.
    """
    hasher = hashlib.blake2b(f"{dest.name}\n".encode(), digest_size=8)
    paths = [path + "/" for path in accumulate(dest.name.split("/"), lambda path, part: f"{path}/{part}")]

    def key(source: Repository) -> tuple[bool, int, bytes, str]:
        name, own = source.name, hasher.copy()
        own.update(name.encode())
        return source not in proven, -_shared_path(paths, name), own.digest(), name

    return sorted(sources, key=key)


def plan(
    sources: Mapping[Digest, Iterable[Repository]],
    *,
    dest: Repository,
    proven: Collection[Repository] = (),
    few: bool = True,
) -> dict[Digest, tuple[Repository, ...]]:
    """Order the sources of all layers of an image. No source is left out.

    Args:
        sources: the known sources of each layer.
        dest: the destination repository.
        proven: sources from which a mount succeeded just now.
        few: whether the fewest repositories that cover all layers come first, because each needs a scope of a
            token.

    Returns:
        The candidates of each layer that has any, best first.
    """
    ranked = {layer: tuple(rank(known, dest=dest, proven=proven)) for layer, known in sources.items()}
    ranked = {layer: candidates for layer, candidates in ranked.items() if candidates}
    if not few or len(ranked) <= 1:  # the best source covers a single layer
        return ranked
    chosen = frozenset(cover(ranked, dest=dest, proven=proven))
    return {
        layer: tuple(sorted(candidates, key=lambda source: source not in chosen))  # stable: by rank among equals
        for layer, candidates in ranked.items()
    }


def cover(ranked: Ranked, *, dest: Repository, proven: Collection[Repository] = ()) -> tuple[Repository, ...]:
    """Choose few repositories so that each layer has a source among them.

    Proven ones come first. Then comes the one that the most layers still need (the greedy cover, which is at most
    ln(n) + 1 times as large as the smallest one), among equals the one of the best rank.
    """
    layers_of: dict[Repository, set[Digest]] = {}
    for layer, candidates in ranked.items():
        for source in candidates:
            layers_of.setdefault(source, set()).add(layer)
    order = {source: place for place, source in enumerate(rank(layers_of, dest=dest, proven=proven))}
    uncovered = {layer for layer, candidates in ranked.items() if candidates}
    heap = [(source not in proven, -len(layers), order[source], source) for source, layers in layers_of.items()]
    heapq.heapify(heap)
    chosen: list[Repository] = []
    while uncovered:
        unproven, counted, place, source = heapq.heappop(heap)
        count = len(layers_of[source] & uncovered)
        if count == -counted:
            chosen.append(source)
            uncovered -= layers_of[source]
        elif count:  # counts only fall, so the heap's are upper bounds
            heapq.heappush(heap, (unproven, -count, place, source))
    return tuple(chosen)


def spares(ranked: Ranked, *, dest: Repository, count: int) -> tuple[Repository, ...]:
    """Choose further sources for layers whose first ones failed: covers of what is left, one after the other.

    Args:
        ranked: the sources that are left, of each layer that needs one.
        dest: the destination repository.
        count: how many are enough.
    """
    chosen: dict[Repository, None] = {}
    left = dict(ranked)
    while left and len(chosen) < count:
        chosen.update(dict.fromkeys(cover(left, dest=dest)))
        remaining = {layer: tuple(s for s in candidates if s not in chosen) for layer, candidates in left.items()}
        left = {layer: candidates for layer, candidates in remaining.items() if candidates}
    return tuple(chosen)


def _shared_path(paths: list[str], name: str) -> int:
    """Return how many of the paths, each of which goes on from the one before, lead to a name."""
    shared, path = 0, name + "/"
    while shared < len(paths) and path.startswith(paths[shared]):
        shared += 1
    return shared


FAILURES = 16
FAILURES_A_LAYER = 4
"""How many mounts of one push may fail before only sources are tried that have succeeded: so many, and so many
more for each layer. A stale or unreadable source costs a round trip, an upload far more. A must-mount layer is
tried from all its sources."""

SPARES = 16
"""How many further sources one request for tokens covers, after the first ones failed."""


@dataclass(slots=True)
class Trial:
    """One mount request from a source, and the registry's answer; None without one."""

    answer: MountAnswer | None = None


class SourceSearch:
    """The search for the sources of one push into one repository.

    Args:
        dest: the destination.
        proven: sources from which a mount succeeded before; successes are added.
    """

    def __init__(self, dest: Repository, proven: dict[Repository, None]) -> None:
        self.dest = dest
        self.unreadable: set[Repository] = set()
        self._proven = proven
        self._candidates: dict[Digest, tuple[Repository, ...]] = {}
        self._ready: set[Repository] = set()
        self._waiting: Counter[Repository] = Counter()
        self._failures = 0
        self._changed = asyncio.Event()

    def add(self, candidates: Mapping[Digest, tuple[Repository, ...]]) -> tuple[Repository, ...]:
        """Add layers, and return the first source of each: those that tokens are needed for first."""
        self._candidates.update(candidates)
        firsts = tuple(dict.fromkeys(sources[0] for sources in candidates.values() if sources))
        self._ready.update(firsts)
        return firsts

    def has(self, layer: Digest) -> bool:
        """Return whether the layer is part of this search."""
        return layer in self._candidates

    def order(self, layer: Digest, *, must_mount: bool = False) -> tuple[Repository, ...]:
        """Return the sources that are left for a layer, the next one first.

        Args:
            layer: the layer.
            must_mount: whether it cannot be uploaded instead: then no failure of others ends its search.
        """
        left = [source for source in self._candidates.get(layer, ()) if source not in self.unreadable]
        if not must_mount and self._failures >= FAILURES + FAILURES_A_LAYER * len(self._candidates):
            left = [source for source in left if source in self._proven]
        is_searching = self._failures > 0

        def key(source: Repository) -> tuple[bool, bool, int]:
            if source in self._proven:
                return False, False, 0
            return True, source not in self._ready, self._waiting[source] if is_searching else 0

        return tuple(sorted(left, key=key))  # stable: by rank among equals

    def is_being_tried(self, source: Repository) -> bool:
        """Return whether, after failures, another layer's mount from a source is in progress."""
        return self._failures > 0 and source not in self._proven and self._waiting[source] > 0

    async def changed(self) -> None:
        """Wait until a mount request has ended."""
        await self._changed.wait()

    def is_ready(self, source: Repository) -> bool:
        """Return whether the tokens cover a source, as far as tokens are used."""
        return source in self._ready

    def more(self, source: Repository) -> tuple[Repository, ...]:
        """Return the sources to get tokens for now, because `source` comes next for a layer."""
        left = {layer: self.order(layer) for layer in self._candidates}
        needy = {layer: each for layer, each in left.items() if self._ready.isdisjoint(each)}
        chosen = tuple(dict.fromkeys((source, *spares(needy, dest=self.dest, count=SPARES))))
        self._ready.update(chosen)
        return chosen

    @contextmanager
    def trying(self, layer: Digest, source: Repository) -> Iterator[Trial]:
        """Count a mount request that is sent in the block, and learn from how it ends."""
        trial = Trial()
        self._waiting[source] += 1
        self._candidates[layer] = tuple(each for each in self._candidates.get(layer, ()) if each != source)
        try:
            yield trial
        finally:
            self._waiting[source] -= 1
            self._learn(layer, source, trial.answer)
            self._changed.set()
            self._changed = asyncio.Event()

    def _learn(self, layer: Digest, source: Repository, answer: MountAnswer | None) -> None:
        """A refusal counts against the source, any other failure against this layer there."""
        if isinstance(answer, Mounted):
            self._proven[source] = None
            self._candidates[layer] = ()
            return
        self._failures += 1
        if isinstance(answer, AccessDeniedError) and source not in self._proven:
            self.unreadable.add(source)

    def refuse(self, sources: Iterable[Repository]) -> None:
        """Note sources that this account cannot read, or for which the registry gives no token."""
        self.unreadable.update(sources)
