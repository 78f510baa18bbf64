"""Records in the index what a scan found: the layers of many repositories in one round trip."""

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
"""How many sightings one round trip records, and how many findings of any kind may be pending."""

SECONDS = 2.0
"""How long findings stay pending while more of them arrive."""


@dataclass(slots=True)
class _Pending:
    """Findings that are not recorded yet."""

    sightings: dict[tuple[Digest, Repository], Sighting] = field(default_factory=dict)
    manifests: dict[Digest, ManifestSummary] = field(default_factory=dict)
    done: list[Repository] = field(default_factory=list)
    tags: dict[Repository, list[str]] = field(default_factory=dict)

    def __len__(self) -> int:
        tags = sum(len(some) for some in self.tags.values())
        return len(self.sightings) + len(self.manifests) + len(self.done) + tags

    def extend(self, later: "_Pending") -> None:
        """Add findings that came later."""
        self.sightings |= later.sightings
        self.manifests |= later.manifests
        self.done += later.done
        for repository, tags in later.tags.items():
            self.tags.setdefault(repository, []).extend(tags)


class ScanRecorder:
    """Collects findings and records them together. The checkpoint is saved after they are recorded, never before.

    Memory is bounded: a caller that adds too much waits until the index has recorded what is pending.

    Args:
        index: records the layers; its errors propagate.
        cache: stores the manifests.
        checkpoint: stores what is finished.
        clock: seconds, from any start.
    """

    def __init__(
        self,
        index: MountIndex,
        cache: ManifestCache,
        checkpoint: ScanCheckpoint,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._index = index
        self._cache = cache
        self._checkpoint = checkpoint
        self._clock = clock
        self._lock = asyncio.Lock()
        self._since: float | None = None
        self._pending = _Pending()

    async def add_manifest(self, repository: Repository, manifest: ManifestSummary) -> None:
        """Add a manifest of `repository`, and all the blobs that it names."""
        self._pending.manifests[manifest.digest] = manifest
        for seen in manifest.sightings(repository):
            self._pending.sightings[seen.layer, repository] = seen
        await self._flush_when_due()

    async def tags_done(self, repository: Repository, tags: Iterable[str]) -> None:
        """Note that all manifests of these tags were added."""
        self._pending.tags.setdefault(repository, []).extend(tags)
        await self._flush_when_due()

    async def repository_done(self, repository: Repository) -> None:
        """Note that everything in a repository was added."""
        self._pending.tags.pop(repository, None)
        self._pending.done.append(repository)
        await self._flush_when_due()

    async def flush(self) -> None:
        """Record everything pending. If that fails or is cancelled, it stays pending for the next flush.

        Raises:
            IndexFailedError: the index did not record it.
        """
        async with self._lock:
            pending, self._pending, self._since = self._pending, _Pending(), None
            try:
                await self._record(pending)
            except BaseException:  # otherwise the next flush could save a checkpoint for what was never recorded
                pending.extend(self._pending)
                self._pending = pending
                raise

    async def _record(self, pending: _Pending) -> None:
        sightings = list(pending.sightings.values())
        for start in range(0, len(sightings), BATCH):
            await self._index.record(sightings[start : start + BATCH])
        if pending.manifests:
            await self._cache.store(pending.manifests.values())
        if pending.done or pending.tags:
            await self._checkpoint.save(pending.done, pending.tags)

    async def _flush_when_due(self) -> None:
        now = self._clock()
        self._since = now if self._since is None else self._since
        if len(self._pending) >= BATCH or now - self._since >= SECONDS:
            await self.flush()
