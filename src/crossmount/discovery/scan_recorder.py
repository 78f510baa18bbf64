"""What a scan saw, on its way into the index: many repositories' sightings in one round trip."""

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from crossmount.discovery.manifest_cache import ManifestCache
from crossmount.discovery.manifest_summary import ManifestSummary
from crossmount.discovery.scan_checkpoint import ScanCheckpoint
from crossmount.index.protocol import MountIndex, Sighting
from crossmount.oci import Digest, Repository

BATCH = 512
"""Sightings in one round trip, and how much of anything may wait for one."""

SECONDS = 2.0
"""For how long what was seen waits for more, as long as more comes."""


@dataclass(slots=True)
class _Brought:
    """What was brought and is not recorded yet."""

    sightings: dict[tuple[Digest, Repository], Sighting] = field(default_factory=dict)
    outlines: dict[Digest, ManifestSummary] = field(default_factory=dict)
    done: list[Repository] = field(default_factory=list)
    tags: dict[Repository, list[str]] = field(default_factory=dict)

    def __len__(self) -> int:
        tags = sum(len(some) for some in self.tags.values())
        return len(self.sightings) + len(self.outlines) + len(self.done) + tags

    def extend(self, later: "_Brought") -> None:
        """Take in what was brought after it."""
        self.sightings |= later.sightings
        self.outlines |= later.outlines
        self.done += later.done
        for repository, tags in later.tags.items():
            self.tags.setdefault(repository, []).extend(tags)


class ScanRecorder:
    """Gathers, and records together. What counts as done is noted after it is recorded, never before.

    Its memory is bounded: whoever brings more waits until the index took what is there.

    Args:
        index: is told of layers; its failures are raised.
        memory: is told of manifests.
        progress: is told what is done.
        clock: seconds, from any start.
    """

    def __init__(
        self,
        index: MountIndex,
        memory: ManifestCache,
        progress: ScanCheckpoint,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._index = index
        self._memory = memory
        self._progress = progress
        self._clock = clock
        self._lock = asyncio.Lock()
        self._since: float | None = None
        self._brought = _Brought()

    async def saw(self, repository: Repository, outline: ManifestSummary) -> None:
        """Take in that `repository` holds a manifest, and so all that it names."""
        self._brought.outlines[outline.digest] = outline
        for seen in outline.sightings(repository):
            self._brought.sightings[seen.layer, repository] = seen
        await self._make_room()

    async def tags_done(self, repository: Repository, tags: Iterable[str]) -> None:
        """Take in that all of these tags' manifests were brought."""
        self._brought.tags.setdefault(repository, []).extend(tags)
        await self._make_room()

    async def repository_done(self, repository: Repository) -> None:
        """Take in that everything of a repository was brought."""
        self._brought.tags.pop(repository, None)
        self._brought.done.append(repository)
        await self._make_room()

    async def flush(self) -> None:
        """Record all that was brought; what is not recorded to its end is kept for the next time.

        Raises:
            IndexFailedError: the index did not take it.
        """
        async with self._lock:
            brought, self._brought, self._since = self._brought, _Brought(), None
            try:
                await self._record(brought)
            except BaseException:  # else what comes after it could count as done without it
                brought.extend(self._brought)
                self._brought = brought
                raise

    async def _record(self, brought: _Brought) -> None:
        sightings = list(brought.sightings.values())
        for start in range(0, len(sightings), BATCH):
            await self._index.record(sightings[start : start + BATCH])
        if brought.outlines:
            await self._memory.keep(brought.outlines.values())
        if brought.done or brought.tags:
            await self._progress.note(brought.done, brought.tags)

    async def _make_room(self) -> None:
        now = self._clock()
        self._since = now if self._since is None else self._since
        if len(self._brought) >= BATCH or now - self._since >= SECONDS:
            await self.flush()
