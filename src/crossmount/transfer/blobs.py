"""The blobs of one push: each exists in dest already, is mounted, or is uploaded."""

import asyncio
from collections.abc import Callable, Collection, Sequence
from contextlib import closing
from dataclasses import field, replace
from functools import partial

from crossmount import events
from crossmount._dataclass import dataclass
from crossmount._tasks import run_all
from crossmount.errors import MountRequiredError, knowing
from crossmount.fleet import MountTurn, Slots, Turn, UploadTurn, mount_or_upload
from crossmount.index.protocol import Knowledge, LayerKnowledge, MountIndex, Sighting
from crossmount.mount import Mounter, MountResult, MountStatus
from crossmount.oci import BlobSource, Digest, FileBlob, Repository
from crossmount.registry import SIZE_UNKNOWN, RegistryClient, UploadSession
from crossmount.transfer.fetch import FetchedBlob, StartOverError
from crossmount.transfer.report import BlobReport
from crossmount.transfer.turns import PushTurns


class _LastMount:
    """The last mount of a blob that did not succeed; its upload session is used, or else cancelled."""

    def __init__(self, mounter: Mounter) -> None:
        self._mounter = mounter
        self._result: MountResult | None = None

    def replace(self, result: MountResult) -> None:
        """Cancel the earlier session, and keep this one."""
        self.close()
        self._result = result

    def take(self) -> MountResult | None:
        """Return the mount; its session is the caller's from now on."""
        result, self._result = self._result, None
        return result

    def close(self) -> None:
        """Cancel the session, if there is one."""
        if (result := self.take()) is not None:
            self._mounter.cancel_later(result.session)


def _ignore(sent: int) -> None:
    del sent


@dataclass(slots=True, kw_only=True)
class BlobPusher:
    """Pushes blobs into one repository, and remembers what the registry confirmed.

    Attributes:
        requests: limits concurrent HEADs and mounts.
        uploads: limits concurrent uploads.
        turns: coordinates uploads with the rest of the fleet.
    """

    dest: Repository
    client: RegistryClient
    mounter: Mounter
    index: MountIndex
    knowledge: Knowledge
    requests: asyncio.Semaphore
    uploads: Slots
    turns: PushTurns
    observer: events.Observer
    _candidates: dict[Digest, tuple[Repository, ...]] = field(default_factory=dict, init=False)
    _reports: dict[Digest, BlobReport] = field(default_factory=dict, init=False)
    _mounts: dict[Digest, MountResult] = field(default_factory=dict, init=False)

    async def push_all(self, blobs: Sequence[BlobSource]) -> None:
        """Push all blobs concurrently; the first failure cancels the others."""
        self._candidates = await self.mounter.prepare(self.knowledge, self.dest)
        await run_all([partial(self._push, blob) for blob in blobs])
        # in the order of the image, not of completion
        self._reports = {blob.descriptor.digest: self._reports[blob.descriptor.digest] for blob in blobs}

    async def push_again(self, blob: BlobSource) -> None:
        """Push a blob that dest lacks after all: mount it if that was not tried, or else upload it.

        Raises:
            MountRequiredError: it must not be uploaded.
        """
        digest = blob.descriptor.digest
        attempts = self._reports[digest].attempts
        candidates = () if attempts else self._candidates.get(digest, ())
        await self._forget_sources(digest)
        with closing(_LastMount(self.mounter)) as last:
            if candidates:
                async with self.requests:
                    result = await self.mounter.attempt(digest, self.dest, candidates, self.knowledge)
                attempts = result.attempts
                last.replace(result)
                if self._mounted(blob, result) is not None:
                    return
            self._refuse_upload_of_must_mount(digest, None)
            async with self.uploads:
                opened = last.take()
                session = opened.session if opened is not None else None
                await self._upload(blob, session or await self.client.start_upload(self.dest))
        self._report(blob, "uploaded", attempts=attempts)

    def outcomes(self) -> dict[Digest, events.Outcome]:
        """Return how each blob got into dest."""
        return {digest: report.outcome for digest, report in self._reports.items()}

    def reports(self) -> tuple[BlobReport, ...]:
        """Return the outcome of each blob."""
        return tuple(self._reports.values())

    def mounts(self) -> list[MountResult]:
        """Return the mounts that succeeded."""
        return list(self._mounts.values())

    def sightings(self) -> list[Sighting]:
        """Return what the registry confirmed: dest holds every blob, sources hold the blobs mounted from them."""
        return [
            sighting
            for digest, report in self._reports.items()
            for sighting in (
                self._mounts[digest].sightings(report.size)
                if digest in self._mounts
                else [Sighting(digest, self.dest, report.size)]
            )
        ]

    async def _push(self, blob: BlobSource) -> None:
        digest, size = blob.descriptor.digest, blob.descriptor.size
        self.observer(events.BlobStarted(digest=digest, size=size, dest=self.dest))
        try:
            with knowing(digest=digest), closing(_LastMount(self.mounter)) as last:
                if await self._existing_or_mounted(blob, last) is None:
                    await self._mount_or_upload_in_turn(blob, last)
        finally:
            await self.turns.mark_decided(digest)

    async def _existing_or_mounted(self, blob: BlobSource, last: _LastMount) -> BlobReport | None:
        """Mount a blob from a source that the index knows, unless dest has it already.

        The HEAD comes first only if the index says that dest has the blob, or if there is nothing to mount from.
        """
        digest = blob.descriptor.digest
        candidates = self._candidates.get(digest, ())
        head_first = not candidates or self.knowledge.of(digest).in_dest
        if head_first and await self.exists(blob):
            return self._report(blob, "existing")
        if not candidates:
            return None
        async with self.requests:
            result = await self.mounter.attempt(digest, self.dest, candidates, self.knowledge)
        last.replace(result)
        if result.status is not MountStatus.MOUNTED and not head_first and await self.exists(blob):
            return self._report(blob, "existing", attempts=result.attempts)
        return self._mounted(blob, result)

    async def _mount_or_upload_in_turn(self, blob: BlobSource, last: _LastMount) -> None:
        """Upload a blob that dest lacks when its turn comes, or mount it from where another uploaded it."""
        digest, size = blob.descriptor.digest, blob.descriptor.size

        async def take_turn(excluded: Collection[Repository]) -> Turn | None:
            return await self.turns.take(blob, excluded)

        async def mount(turn: MountTurn, waited: float) -> BlobReport | None:
            last.close()
            return await self._mount_new(blob, turn, last, waited)

        async def upload(turn: UploadTurn | None, waited: float) -> BlobReport:
            if turn is None:
                await self.turns.mark_decided(digest)
                async with self.uploads:
                    return await self._upload_into_session(blob, last, waited)
            if turn.waited:
                last.close()  # its session may have expired by now
            return await self.turns.upload(
                turn, size, lambda: self._upload_into_session(blob, last, waited, turn.count)
            )

        excluded = set(self._candidates.get(digest, ()))
        if self.knowledge.of(digest).in_dest:
            excluded.add(self.dest)
        await mount_or_upload(take_turn, mount, upload, excluded=excluded)

    async def _mount_new(
        self, blob: BlobSource, turn: MountTurn, last: _LastMount, waited: float
    ) -> BlobReport | None:
        """Mount a blob from where another has just uploaded it, which may be dest itself."""
        digest = blob.descriptor.digest
        if self.dest in turn.sources and await self.exists(blob):
            return self._report(blob, "existing", waited=waited)
        known = replace(self.knowledge.of(digest), sources=tuple(sorted(turn.sources - {self.dest})))
        knowledge = Knowledge({digest: known}, self.knowledge.traits)
        candidates = (await self.mounter.prepare(knowledge, self.dest)).get(digest, ())
        async with self.requests:
            result = await self.mounter.attempt(digest, self.dest, candidates, knowledge, fresh=True)
        last.replace(result)
        return self._mounted(blob, result, waited)

    async def _upload_into_session(
        self, blob: BlobSource, last: _LastMount, waited: float, count: Callable[[int], None] = _ignore
    ) -> BlobReport:
        """Upload a blob into the last mount's session; without one a mount request opens it, or succeeds.

        `count` receives the bytes that were sent.
        """
        result = last.take()
        if result is None:
            result = await self.mounter.attempt(blob.descriptor.digest, self.dest, (), self.knowledge)
            if (mounted := self._mounted(blob, result, waited)) is not None:
                return mounted
        await self._upload(blob, result.session or await self.client.start_upload(self.dest), count)
        return self._report(blob, "uploaded", attempts=result.attempts, waited=waited)

    async def exists(self, blob: BlobSource) -> bool:
        """Ask the registry whether dest holds the blob; an answer with another size counts as no."""
        async with self.requests:
            size = await self.client.head_blob(self.dest, blob.descriptor.digest)
        return size in {SIZE_UNKNOWN, blob.descriptor.size}

    def _mounted(self, blob: BlobSource, result: MountResult, waited: float = 0.0) -> BlobReport | None:
        """Report a mount that succeeded; return None if the blob has to be uploaded.

        Raises:
            MountRequiredError: the mount failed, and the blob must not be uploaded.
        """
        if result.status is MountStatus.MOUNTED:
            self._mounts[blob.descriptor.digest] = result
            return self._report(blob, "mounted", source=result.source, attempts=result.attempts, waited=waited)
        if result.status is MountStatus.MOUNT_REQUIRED:
            self._refuse_upload_of_must_mount(blob.descriptor.digest, result)
        return None

    async def _upload(
        self, blob: BlobSource, session: UploadSession, count: Callable[[int], None] = _ignore
    ) -> None:
        digest = blob.descriptor.digest

        def progress(sent: int) -> None:
            count(sent)
            self.observer(events.BlobProgress(digest=digest, sent=sent, dest=self.dest))

        source = blob.reading() if isinstance(blob, FileBlob) else blob
        try:
            while not await self._upload_once(session, source, progress):
                session = await self.client.start_upload(self.dest)
        finally:
            if isinstance(blob, FetchedBlob):
                blob.release()

    async def _upload_once(
        self, session: UploadSession, blob: BlobSource, progress: Callable[[int], None]
    ) -> bool:
        """Upload a blob into a session; return False if wrong bytes were sent and the upload must restart."""
        try:
            await self.client.upload_blob(session, blob, on_progress=progress)
        except BaseException as error:
            await asyncio.shield(self.client.cancel_upload(session))
            if isinstance(error, StartOverError):
                return False
            raise
        return True

    def _refuse_upload_of_must_mount(self, digest: Digest, result: MountResult | None) -> None:
        known = self.knowledge.of(digest)
        if known.must_mount:
            cause = f" ({result.error})" if result is not None and result.error else ""
            raise mount_required(digest, self.dest, known, cause)

    async def _forget_sources(self, digest: Digest) -> None:
        """Remove dest, and the source the blob was mounted from, from the index: they do not hold the blob."""
        mounted = self._mounts.pop(digest, None)
        if mounted is not None:
            await self.mounter.findings.record_false_mount()
        wrong = [self.dest] if mounted is None or mounted.source is None else [self.dest, mounted.source]
        await self.index.forget(digest, *wrong)

    def _report(
        self,
        blob: BlobSource,
        outcome: events.Outcome,
        *,
        source: Repository | None = None,
        attempts: int = 0,
        waited: float = 0.0,
    ) -> BlobReport:
        digest, size = blob.descriptor.digest, blob.descriptor.size
        report = BlobReport(
            digest=digest,
            size=size,
            outcome=outcome,
            source=source,
            attempts=attempts,
            waited=waited,
            elsewhere=self.knowledge.of(digest).elsewhere if outcome == "uploaded" else (),
        )
        self._reports[digest] = report
        self.observer(
            events.BlobFinished(digest=digest, size=size, outcome=outcome, source=source, dest=self.dest)
        )
        return report


def mount_required(digest: Digest, dest: Repository, known: LayerKnowledge, cause: str = "") -> MountRequiredError:
    """Return the error for a must-mount layer that was not mounted.

    Args:
        digest: the layer.
        dest: the repository that lacks it.
        known: what the index knows of it.
        cause: why it was not mounted, in brackets.
    """
    sources = ", ".join(map(str, known.sources)) or "none"
    return MountRequiredError(
        f"{digest} must be mounted into {dest} and was not{cause}; sources known: {sources}. "
        "Add a source from which it may be mounted (crossmount add), "
        "or lift the flag (crossmount must-mount --clear LAYER)"
    ).knowing(registry=dest.registry, repository=dest, digest=digest)
