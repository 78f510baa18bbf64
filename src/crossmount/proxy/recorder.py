"""Records in the index what the registry confirms to clients: mounts, uploads, blobs, accepted manifests.

No client waits for the index: one background task records the sightings in batches.
"""

import asyncio
import contextlib
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from crossmount._expiring import ExpiringSet
from crossmount._tasks import collect
from crossmount.discovery.manifest_summary import ManifestSummary
from crossmount.discovery.manifest_walker import ManifestWalker
from crossmount.errors import CrossmountError
from crossmount.index.exclusions import RemembersDeletions
from crossmount.index.protocol import Knowledge, MountIndex, RegistryTraits, Sighting
from crossmount.oci import Digest, Manifest, Repository
from crossmount.proxy.auth.callers import Agent
from crossmount.proxy.ledger import IDLE_SECONDS, PushLedger
from crossmount.proxy.telemetry import Metrics
from crossmount.registry import SIZE_UNKNOWN

_log = logging.getLogger(__name__)
_WAITING_MAX = 10_000
_BATCH = 256
_GATHER_SECONDS = 0.005
"""How long a sighting waits for others: so long that the client has its answer first."""

_TASKS_MAX = 256
_CHILDREN_MAX, _CHILDREN_AT_ONCE = 64, 4
_END_SECONDS = 5.0
_SETTLE_SECONDS = 1.0
_COUNT_SECONDS = 0.2
_DAY_SECONDS = 86_400
_PULLED_MAX = 16_384
_RECORDED_SECONDS = 60.0


class ProxyRecorder:
    """Records confirmed sources in the index, in the background.

    Args:
        index: an index that never fails (`GuardedIndex`).
        metrics: counts the sightings that were dropped, and failures.
        ledger: counts the clients' pushes; None counts none.
        epoch: epoch seconds.

    Attributes:
        ledger: the same.
    """

    def __init__(
        self,
        index: MountIndex,
        metrics: Metrics,
        *,
        ledger: PushLedger | None = None,
        epoch: Callable[[], float] = time.time,
    ) -> None:
        self.ledger = ledger or PushLedger(None, waits_for=lambda _: True)
        self._index = index
        self._metrics = metrics
        self._waiting: asyncio.Queue[Sighting] = asyncio.Queue(_WAITING_MAX)
        self._epoch = epoch
        self._pulled: OrderedDict[tuple[Repository, Digest], int] = OrderedDict()  # the day of the last record
        self._recorded: ExpiringSet[tuple[Repository, Digest]] = ExpiringSet(_RECORDED_SECONDS)
        self._traits = RegistryTraits()
        self._has_proof = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._gate = asyncio.Semaphore(_CHILDREN_AT_ONCE)

    @property
    def traits(self) -> RegistryTraits:
        """The known traits of the registry."""
        return self._traits

    @property
    def has_proof(self) -> bool:
        """Whether this proxy has seen that 201s to mounts are true; the index's word is not enough."""
        return self._has_proof and self._traits.truthful is True

    def update_traits(self, traits: RegistryTraits) -> None:
        """Add newly learned traits of the registry."""
        self._traits = self._traits.updated(traits)

    def record_proven(self, sightings: Iterable[Sighting]) -> None:
        """Record what a mount or an upload proved, unless the registry mounts a blob only after its manifest."""
        if self._traits.after_manifest:
            return  # the blob cannot be mounted from there yet; its manifest records it
        for sighting in sightings:
            self._put(sighting)

    def record_blob(self, repository: Repository, digest: Digest, size: int | None) -> None:
        """Record a blob that was uploaded, or that the registry reported."""
        self.record_proven([Sighting(digest, repository, size)])

    def record_existing(self, repository: Repository, digest: Digest, size: int | None) -> None:
        """Record a blob that the registry has, unless that was done a moment ago, since clients repeat a HEAD."""
        if (repository, digest) not in self._recorded:
            self._recorded.add((repository, digest))
            self.record_blob(repository, digest, size)

    def record_client_mount(self, agent: Agent | None, digest: Digest, *holders: Repository) -> None:
        """Record and count a blob that the registry mounted on a client's own request; a HEAD asks its size.

        A blob that the registry does not have after all is not recorded.
        """
        self._start(self._record_with_size(agent, digest, holders))

    async def record_mount_proof(self, registry: str, *, truthful: bool) -> None:
        """Record whether the registry's 201 to a mount was true. If it was not, mounts need proof from now on."""
        self._has_proof = self._has_proof or truthful
        if self._traits.truthful is False or self._traits.truthful is truthful:
            return
        seen = RegistryTraits(truthful=truthful)
        self.update_traits(seen)
        if truthful:
            self._start(self._index.record_traits(registry, seen))
        else:
            await self._index.record_traits(registry, seen)

    def record_manifest(self, agent: Agent | None, repository: Repository, manifest: Manifest) -> None:
        """Record the blobs of a manifest that the registry accepted, and of the children of an image index."""
        outline = ManifestSummary.of(manifest)
        for sighting in outline.sightings(repository):
            self._put(sighting)
        if outline.children and agent is not None:
            self._start(self._record_children(agent, repository, outline.children[:_CHILDREN_MAX]))

    def record_pull(self, repository: Repository, manifest: Manifest) -> None:
        """Record the blobs of a manifest that a caller read, once for each manifest and day.

        The children of an image index are recorded when they are read.
        """
        key, today = (repository, manifest.descriptor.digest), int(self._epoch() // _DAY_SECONDS)
        if self._pulled.get(key) == today:
            return
        self._pulled[key] = today
        self._pulled.move_to_end(key)
        while len(self._pulled) > _PULLED_MAX:
            self._pulled.popitem(last=False)
        self._start(self._record_pulled(repository, list(ManifestSummary.of(manifest).sightings(repository))))

    async def record_deletion(self, repository: Repository, digest: Digest) -> None:
        """Record that a client deleted a blob, so that no proxy mounts it there again on its own."""
        self._recorded.remove((repository, digest))
        if isinstance(self._index, RemembersDeletions):
            await self._index.record_deletion(digest, repository)

    def clear_deletion(self, repository: Repository, digest: Digest) -> None:
        """Record that a client has started to upload a deleted blob again."""
        if isinstance(self._index, RemembersDeletions):
            self._start(self._index.clear_deletion(digest, repository))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Record in the background until the block ends, then record what is left."""
        task = asyncio.create_task(self._work())
        try:
            yield
        finally:
            with contextlib.suppress(TimeoutError):  # an unrecorded source can cost a later push an upload
                async with asyncio.timeout(_END_SECONDS):
                    await self.flush()
                    await self.write_idle_pushes(seconds=0.0)
            left = [task, *self._tasks]
            for each in left:
                each.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    async def write_idle_pushes(self, *, seconds: float = IDLE_SECONDS) -> None:
        """Count the pushes whose last manifest is old enough, and write them."""
        if self.ledger.count_idle(seconds=seconds):
            await self._record_batch(())

    async def write_counted(self) -> None:
        """Write the counts; if that takes longer than a moment, in the background."""
        task = asyncio.create_task(self._record_batch(()))
        task.add_done_callback(collect)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_COUNT_SECONDS):
                await asyncio.shield(task)

    async def settle(self) -> None:
        """Wait a moment until all sightings are recorded."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SETTLE_SECONDS):
                await self.flush()

    async def flush(self) -> None:
        """Wait until all sightings are recorded."""
        await asyncio.gather(*self._tasks)
        await self._waiting.join()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        if len(self._tasks) >= _TASKS_MAX:
            work.close()
            self._metrics.unrecorded.inc()
            return
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(collect)

    async def _record_with_size(self, agent: Agent | None, digest: Digest, holders: Sequence[Repository]) -> None:
        size = None
        if agent is not None:
            with contextlib.suppress(CrossmountError):  # the blob is counted without its size
                size = await agent.client.head_blob(holders[0], digest)
                if size is None:
                    await self.record_mount_proof(holders[0].registry, truthful=False)
                    return
        self.clear_deletion(holders[0], digest)
        known = None if size in {None, SIZE_UNKNOWN} else size
        self._metrics.count_blob("mounted", known)
        self.ledger.note_outcome(holders[0], digest, "mounted")
        self.record_proven([Sighting(digest, holder, known) for holder in holders])

    async def _record_pulled(self, repository: Repository, sightings: Sequence[Sighting]) -> None:
        """Record the blobs of a manifest, except those that a client has deleted: their manifest may remain."""
        known = Knowledge()
        if isinstance(self._index, RemembersDeletions):
            known = await self._index.look_up([each.layer for each in sightings], repository, deletions=True)
        for sighting in sightings:
            if not known.of(sighting.layer).deleted:
                self._put(sighting)

    def _put(self, sighting: Sighting) -> None:
        try:
            self._waiting.put_nowait(sighting)
        except asyncio.QueueFull:
            self._metrics.unrecorded.inc()

    async def _work(self) -> None:
        while True:
            batch = [await self._waiting.get()]
            await asyncio.sleep(_GATHER_SECONDS)
            while len(batch) < _BATCH and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            try:
                await self._record_batch(batch)
            finally:
                for _ in batch:
                    self._waiting.task_done()

    async def _record_batch(self, sightings: Sequence[Sighting]) -> None:
        """Record sightings, and the counts that are not written yet; count a failure."""
        try:
            await self._index.record(sightings)
        except CrossmountError as error:
            self._metrics.count_failure("index", error)

    async def _record_children(self, agent: Agent, repository: Repository, children: Iterable[Digest]) -> None:
        """Read the children of an image index with the caller's rights, and record their blobs."""

        async def take(outline: ManifestSummary) -> None:
            for sighting in outline.sightings(repository):
                self._put(sighting)

        try:
            walked = await ManifestWalker(agent.client, None, gate=self._gate).walk(repository, children, take)
        except CrossmountError as error:
            _log.info("the children of an index in %s were not all read: %s", repository, error)
        else:
            for reason in walked.reasons:
                _log.info("a child of an index in %s was not read: %s", repository, reason)
