"""State of a scan: what it found and has not recorded yet, its checkpoint, its counts, and its report.

The checkpoint lets the next scan resume one that was killed. It lists the finished repositories, and the finished
tags of the others. The keys of these sets contain the run: to delete the checkpoint alone makes them obsolete.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import field
from typing import Any

from crossmount._dataclass import dataclass
from crossmount.discovery.manifest_summary import ManifestCache, ManifestSummary
from crossmount.discovery.manifest_walker import WalkResult
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


REMARKS_MAX = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanReport:
    """A finished scan.

    Attributes:
        registry: the registry, normalised.
        resumed: whether it resumed an unfinished scan.
        listed: repositories that the registry's catalogue, or the caller, named.
        fitting: how many of those match the patterns; all of them without a pattern.
        repositories: repositories that this scan finished.
        before: repositories that the resumed scan had finished, and that were passed over.
        tags: tags that were followed.
        fetched: manifests and indexes that the registry sent.
        known: manifests and indexes that an earlier scan had read, and that were not fetched.
        layers: recorded layers, configs included, counted once for each repository.
        skipped: tags and manifests that are not of an image, or were missing.
        build_caches: fetched indexes that are build caches of BuildKit; their layers are recorded too.
        unreadable: repositories that the account may not read.
        failed: repositories that were not finished.
        denied: how many of the failed ones the account may not read.
        remarks: why repositories failed, then why tags and manifests were skipped; the first few.
        seconds: wall time.
    """

    registry: str
    resumed: bool
    listed: int
    fitting: int
    repositories: int
    before: int
    tags: int
    fetched: int
    known: int
    layers: int
    skipped: int
    unreadable: int
    failed: int
    denied: int
    remarks: tuple[str, ...]
    seconds: float
    build_caches: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the document that `crossmount scan --json` prints."""
        return {
            "registry": self.registry,
            "resumed": self.resumed,
            "repositories": {
                "scanned": self.repositories,
                "before": self.before,
                "unreadable": self.unreadable,
                "failed": self.failed,
            },
            "tags": self.tags,
            "manifests": {"fetched": self.fetched, "known": self.known, "skipped": self.skipped},
            **({"build_caches": self.build_caches} if self.build_caches else {}),
            "layers": self.layers,
            "remarks": list(self.remarks),
            "seconds": round(self.seconds, 3),
        }


@dataclass(slots=True)
class ScanCounts:
    """The counts of a scan in progress; see the attributes of `ScanReport`."""

    listed: int = 0
    fitting: int = 0
    repositories: int = 0
    before: int = 0
    tags: int = 0
    layers: int = 0
    unreadable: int = 0
    failed: int = 0
    denied: int = 0
    remarks: list[str] = field(default_factory=list)
    walked: WalkResult = field(default_factory=WalkResult)

    def remark(self, text: str) -> None:
        """Add a remark, unless there are enough."""
        if len(self.remarks) < REMARKS_MAX:
            self.remarks.append(text)

    def report(self, *, registry: str, resumed: bool, seconds: float) -> ScanReport:
        """Return the report of the finished scan."""
        return ScanReport(
            registry=registry,
            resumed=resumed,
            listed=self.listed,
            fitting=self.fitting,
            repositories=self.repositories,
            before=self.before,
            tags=self.tags,
            fetched=self.walked.fetched,
            known=self.walked.known,
            layers=self.layers,
            skipped=self.walked.skipped,
            unreadable=self.unreadable,
            failed=self.failed,
            denied=self.denied,
            remarks=tuple([*self.remarks, *self.walked.reasons][:REMARKS_MAX]),
            seconds=seconds,
            build_caches=self.walked.build_caches,
        )
