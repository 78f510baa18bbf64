"""What a scan saw, on its way into the index: many repositories' sightings in one round trip."""

import asyncio
import time
from collections.abc import Callable, Iterable

from crossmount.index.protocol import MountIndex, Sighting
from crossmount.oci import Digest, Repository
from crossmount.warmup.memory import Memory
from crossmount.warmup.outline import Outline
from crossmount.warmup.progress import Progress

BATCH = 512
"""Sightings in one round trip."""

SECONDS = 2.0
"""For how long what was seen waits for more, as long as more comes."""


class Recorder:
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
        memory: Memory,
        progress: Progress,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._index = index
        self._memory = memory
        self._progress = progress
        self._clock = clock
        self._lock = asyncio.Lock()
        self._since: float | None = None
        self._clear()

    async def saw(self, repository: Repository, outline: Outline) -> None:
        """Take in that `repository` holds a manifest, and so all that it names."""
        self._outlines[outline.digest] = outline
        for seen in outline.sightings(repository):
            self._sightings[seen.layer, repository] = seen
        await self._make_room()

    async def tags_done(self, repository: Repository, tags: Iterable[str]) -> None:
        """Take in that all of these tags' manifests were brought."""
        self._tags.setdefault(repository, []).extend(tags)
        await self._make_room()

    async def repository_done(self, repository: Repository) -> None:
        """Take in that everything of a repository was brought."""
        self._tags.pop(repository, None)
        self._done.append(repository)
        await self._make_room()

    async def flush(self) -> None:
        """Record all that was brought.

        Raises:
            IndexFailedError: the index did not take it.
        """
        async with self._lock:
            sightings, outlines = list(self._sightings.values()), list(self._outlines.values())
            done, tags = self._done, self._tags
            self._clear()
            for start in range(0, len(sightings), BATCH):
                await self._index.record(sightings[start : start + BATCH])
            if outlines:
                await self._memory.keep(outlines)
            if done or tags:
                await self._progress.note(done, tags)

    async def _make_room(self) -> None:
        now = self._clock()
        self._since = now if self._since is None else self._since
        waiting = len(self._sightings) + len(self._outlines) + len(self._done) + len(self._tags)
        if waiting >= BATCH or now - self._since >= SECONDS:
            await self.flush()

    def _clear(self) -> None:
        self._sightings: dict[tuple[Digest, Repository], Sighting] = {}
        self._outlines: dict[Digest, Outline] = {}
        self._done: list[Repository] = []
        self._tags: dict[Repository, list[str]] = {}
        self._since = None
