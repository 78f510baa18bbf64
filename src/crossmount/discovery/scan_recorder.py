"""Records the findings of a scan: layers in the index, and finished repositories in a checkpoint beside it.

The checkpoint lets the next scan resume one that was killed. It lists the finished repositories, and the finished
tags of the others. The keys of these sets contain the run: to delete the checkpoint alone makes them obsolete.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import field

from crossmount._dataclass import dataclass
from crossmount.discovery.manifest_summary import ManifestCache, ManifestSummary
from crossmount.index.checkpoint import CHECKPOINT_SECONDS, Checkpoint, scope_of
from crossmount.index.keys import SCANNED_SECONDS
from crossmount.index.protocol import BackingServer, MountIndex, Sighting
from crossmount.oci import Digest, Repository
from crossmount.redis.execute import run_reads, run_writes
from crossmount.redis.replies import Command


class ScanCheckpoint:
    """The checkpoint of one scan. Without a server it stores nothing: such an index ends with its process.

    Args:
        server: the server of the index, if it has one.
        registry: the registry, normalised.
        choice: what sets this scan apart from other scans of the registry.
        run: 16 hex digits that identify this scan, unless it resumes an earlier one.
    """

    def __init__(self, server: BackingServer | None, registry: str, choice: Iterable[str], *, run: str) -> None:
        self._registry = registry
        self._stored = None
        if server is not None:
            self._stored = Checkpoint(server, server.keys.scan(registry, scope_of(sorted(choice))), run=run)

    async def begin(self, *, afresh: bool) -> bool:
        """Begin, and return whether an unfinished scan is resumed; `afresh` deletes its checkpoint instead."""
        if self._stored is None:
            return False
        await self._stored.begin(afresh=afresh)
        return self._stored.resumed

    async def unfinished(self, repositories: Sequence[Repository]) -> list[Repository]:
        """Return the repositories that are not finished, in one round trip."""
        if self._stored is None:
            return list(repositories)
        key = self._stored.server.keys.scan_done(self._stored.run)
        done = await _members(self._stored, key, [repository.name for repository in repositories])
        return [repository for repository, is_done in zip(repositories, done, strict=True) if not is_done]

    async def unfinished_tags(self, repository: Repository, tags: Sequence[str]) -> list[str]:
        """Return the tags that are not finished, in one round trip."""
        if self._stored is None:
            return list(tags)
        key = self._stored.server.keys.scan_tags(repository, self._stored.run)
        done = await _members(self._stored, key, tags)
        return [tag for tag, is_done in zip(tags, done, strict=True) if not is_done]

    async def save(self, done: Iterable[Repository], tags: Mapping[Repository, Iterable[str]]) -> None:
        """Save what is finished, in one round trip."""
        if self._stored is None:
            return
        keys, run, finished = self._stored.server.keys, self._stored.run, list(done)
        commands: list[Command] = []
        for repository, some in tags.items():
            commands += _add(keys.scan_tags(repository, run), some)
        commands += [("DEL", keys.scan_tags(repository, run)) for repository in finished]
        if finished:
            commands += _add(keys.scan_done(run), [repository.name for repository in finished])
        await self._stored.save({}, also=commands)

    async def end(self) -> None:
        """Delete it: the scan is finished, which is noted for people."""
        if self._stored is not None:
            server = self._stored.server
            await self._stored.end(server.keys.scan_done(self._stored.run))
            scanned = server.keys.scanned(server.names.canonical(self._registry))
            await run_writes(server.link, [("SET", scanned, "1", "EX", SCANNED_SECONDS)])


async def _members(stored: Checkpoint, key: str, names: Sequence[str]) -> list[bool]:
    (reply,) = await run_reads(stored.server.link, [("SMISMEMBER", key, *names)])
    if isinstance(reply, list) and len(reply) == len(names):
        return [each == 1 for each in reply]
    return [False] * len(names)


def _add(key: str, names: Iterable[str]) -> list[Command]:
    return [("SADD", key, *names), ("EXPIRE", key, CHECKPOINT_SECONDS)]


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
