"""What the mounts of one push teach each other about its sources: a state object without I/O.

A refusal is about a repository, so it counts for all layers at once. The first requests all go to the best
sources. After a failure each layer tries another source than the others do, so that one round trip tests many.
Failures are counted for the whole push, whatever the size of its layers.
"""

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from crossmount.errors import AccessDeniedError
from crossmount.mount.decision import MountAnswer
from crossmount.mount.ranking import spares
from crossmount.oci import Digest, Repository
from crossmount.registry import Mounted

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
