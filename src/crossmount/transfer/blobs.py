"""The blobs of one push: there already, mounted, or uploaded."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from crossmount import events
from crossmount.errors import MountRequiredError
from crossmount.index.protocol import Knowledge, MountIndex, Sighting
from crossmount.mount import Mounter, MountResult, MountStatus
from crossmount.mount.mounter import proven
from crossmount.oci import BlobSource, Digest, Repository
from crossmount.registry import RegistryClient, UploadSession
from crossmount.transfer.report import BlobReport
from crossmount.transfer.tasks import run_all


@dataclass(slots=True, kw_only=True)
class BlobPusher:
    """Brings blobs into one repository, and remembers what was proven on the way.

    Attributes:
        requests: limits HEADs and mounts.
        uploads: limits blobs whose bytes are on their way.
    """

    dest: Repository
    client: RegistryClient
    mounter: Mounter
    index: MountIndex
    knowledge: Knowledge
    requests: asyncio.Semaphore
    uploads: asyncio.Semaphore
    observer: events.Observer
    _candidates: dict[Digest, tuple[Repository, ...]] = field(default_factory=dict)
    _reports: dict[Digest, BlobReport] = field(default_factory=dict)
    _mounts: dict[Digest, MountResult] = field(default_factory=dict)

    async def push_all(self, blobs: Sequence[BlobSource]) -> None:
        """Bring all blobs there, side by side; the first failure cancels the others."""
        planned = self.mounter.candidates(self.knowledge, self.dest)
        sources = {source for candidates in planned.values() for source in candidates}
        refused = (await self.client.prepare(self.dest, sources)).refused
        self._candidates = {
            layer: tuple(source for source in candidates if source not in refused)
            for layer, candidates in planned.items()
        }
        await run_all([partial(self._push, blob) for blob in blobs])
        # in the order of the image, whatever ended first
        self._reports = {blob.descriptor.digest: self._reports[blob.descriptor.digest] for blob in blobs}

    async def repair(self, blobs: Sequence[BlobSource]) -> None:
        """Upload those of `blobs` that the repository lacks after all; what said otherwise is stale."""

        async def mend(blob: BlobSource) -> None:
            digest = blob.descriptor.digest
            async with self.requests:
                present = await self.client.head_blob(self.dest, digest) is not None
            if not present:
                await self._disown(digest)
                self._forbid_upload_of_must_mount(digest, None)
                async with self.uploads:
                    await self._upload(blob, await self.client.start_upload(self.dest))
                self._report(blob, "uploaded", attempts=self._reports[digest].attempts)

        await run_all([partial(mend, blob) for blob in blobs])

    def reports(self) -> tuple[BlobReport, ...]:
        """Return how each blob came to be there."""
        return tuple(self._reports.values())

    def mounts(self) -> list[MountResult]:
        """Return the mounts that succeeded."""
        return list(self._mounts.values())

    def sightings(self) -> list[Sighting]:
        """Return what the registry confirmed: dest holds every blob, and sources that served hold theirs."""
        return [
            sighting
            for digest, report in self._reports.items()
            for sighting in (
                proven(self._mounts[digest], report.size)
                if digest in self._mounts
                else [Sighting(digest, self.dest, report.size)]
            )
        ]

    async def _push(self, blob: BlobSource) -> None:
        digest, size = blob.descriptor.digest, blob.descriptor.size
        self.observer(events.BlobStarted(digest=digest, size=size))
        candidates = self._candidates.get(digest, ())
        if candidates and not self.knowledge.of(digest).in_dest:
            async with self.requests:
                result = await self.mounter.attempt(digest, self.dest, candidates, self.knowledge)
            if self._settled(blob, result):
                return
            async with self.uploads:
                await self._upload_into(blob, result)
            return
        async with self.requests:
            existing = await self.client.head_blob(self.dest, digest) is not None
        if existing:
            self._report(blob, "existing")
            return
        async with self.uploads:  # the session is opened when its upload's turn has come
            result = await self.mounter.attempt(digest, self.dest, candidates, self.knowledge)
            if not self._settled(blob, result):
                await self._upload_into(blob, result)

    def _settled(self, blob: BlobSource, result: MountResult) -> bool:
        """Tell whether the mount made an upload needless.

        Raises:
            MountRequiredError: it did not, and an upload is out of the question.
        """
        if result.status is MountStatus.MOUNTED:
            self._mounts[blob.descriptor.digest] = result
            self._report(blob, "mounted", source=result.source, attempts=result.attempts)
            return True
        if result.status is MountStatus.MOUNT_REQUIRED:
            self._forbid_upload_of_must_mount(blob.descriptor.digest, result)
        return False

    async def _upload_into(self, blob: BlobSource, result: MountResult) -> None:
        await self._upload(blob, result.session or await self.client.start_upload(self.dest))
        self._report(blob, "uploaded", attempts=result.attempts)

    async def _upload(self, blob: BlobSource, session: UploadSession) -> None:
        digest = blob.descriptor.digest

        def progress(sent: int) -> None:
            self.observer(events.BlobProgress(digest=digest, sent=sent))

        try:
            await self.client.upload_blob(session, blob, on_progress=progress)
        except BaseException:
            await asyncio.shield(self.client.cancel_upload(session))
            raise

    def _forbid_upload_of_must_mount(self, digest: Digest, result: MountResult | None) -> None:
        known = self.knowledge.of(digest)
        if known.must_mount:
            cause = f" ({result.error})" if result is not None and result.error else ""
            sources = ", ".join(map(str, known.sources)) or "none"
            raise MountRequiredError(
                f"{digest} must be mounted into {self.dest} and was not{cause}; sources known: {sources}. "
                "Push it where it may be uploaded, add a source (crossmount add), "
                "or lift the flag (crossmount must-mount --clear)"
            )

    async def _disown(self, digest: Digest) -> None:
        """Drop what wrongly said that dest, or a source it was mounted from, holds the blob."""
        mounted = self._mounts.pop(digest, None)
        suspects = [self.dest] if mounted is None or mounted.source is None else [self.dest, mounted.source]
        await self.index.forget(digest, *suspects)

    def _report(
        self, blob: BlobSource, outcome: events.Outcome, *, source: Repository | None = None, attempts: int = 0
    ) -> None:
        digest, size = blob.descriptor.digest, blob.descriptor.size
        self._reports[digest] = BlobReport(
            digest=digest, size=size, outcome=outcome, source=source, attempts=attempts
        )
        self.observer(events.BlobFinished(digest=digest, size=size, outcome=outcome, source=source))
