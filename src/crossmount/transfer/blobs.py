"""The blobs of one push: there already, mounted, or uploaded."""

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from crossmount import events
from crossmount.errors import InvalidLayoutError, MountRequiredError, RegistryRefusedError
from crossmount.fleet import ROUNDS, MountTurn, Slots, UploadTurn
from crossmount.index.protocol import Knowledge, MountIndex, Sighting
from crossmount.mount import Mounter, MountResult, MountStatus
from crossmount.mount.mounter import confirmed_sightings
from crossmount.oci import BlobSource, Digest, FileBlob, Repository
from crossmount.registry import SIZE_UNKNOWN, RegistryClient, UploadSession
from crossmount.transfer.concurrency import run_all
from crossmount.transfer.fetch import FetchedBlob, StartOverError
from crossmount.transfer.report import BlobReport
from crossmount.transfer.turns import Turns


@dataclass(slots=True, kw_only=True)
class BlobPusher:
    """Brings blobs into one repository, and remembers what was proven on the way.

    Attributes:
        requests: limits HEADs and mounts.
        uploads: limits blobs whose bytes are on their way.
        turns: with whom else uploads are shared out.
        clock: seconds, for the rate of uploads.
    """

    dest: Repository
    client: RegistryClient
    mounter: Mounter
    index: MountIndex
    knowledge: Knowledge
    requests: asyncio.Semaphore
    uploads: Slots
    turns: Turns
    observer: events.Observer
    clock: Callable[[], float]
    _candidates: dict[Digest, tuple[Repository, ...]] = field(default_factory=dict, init=False)
    _reports: dict[Digest, BlobReport] = field(default_factory=dict, init=False)
    _mounts: dict[Digest, MountResult] = field(default_factory=dict, init=False)

    async def push_all(self, blobs: Sequence[BlobSource]) -> None:
        """Bring all blobs there, side by side; the first failure cancels the others."""
        self._candidates = await self.mounter.prepare(self.knowledge, self.dest)
        await run_all([partial(self._push, blob) for blob in blobs])
        # in the order of the image, whatever ended first
        self._reports = {blob.descriptor.digest: self._reports[blob.descriptor.digest] for blob in blobs}

    async def repair(self, blobs: Sequence[BlobSource]) -> None:
        """Upload those of `blobs` that the repository lacks after all; what said otherwise is stale."""

        async def mend(blob: BlobSource) -> None:
            digest = blob.descriptor.digest
            if not await self._is_there(blob):
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
                confirmed_sightings(self._mounts[digest], report.size)
                if digest in self._mounts
                else [Sighting(digest, self.dest, report.size)]
            )
        ]

    async def _push(self, blob: BlobSource) -> None:
        digest, size = blob.descriptor.digest, blob.descriptor.size
        self.observer(events.BlobStarted(digest=digest, size=size, dest=self.dest))
        try:
            await self._bring(blob)
        finally:
            await self.turns.decided(digest)

    async def _bring(self, blob: BlobSource) -> None:
        digest = blob.descriptor.digest
        candidates = self._candidates.get(digest, ())
        in_dest = self.knowledge.of(digest).in_dest
        result: MountResult | None = None
        if candidates and not in_dest:
            async with self.requests:
                result = await self.mounter.attempt(digest, self.dest, candidates, self.knowledge)
            try:
                if await self._is_needless(blob, result):
                    return
            except BaseException:
                self.mounter.cancel_later(result.session)
                raise
        elif await self._is_there(blob):
            self._report(blob, "existing")
            return
        if self.turns.worth(blob):
            await self._by_turn(blob, result, {*candidates, *([self.dest] if in_dest else ())})
            return
        await self._upload_alone(blob, result, () if result else candidates)

    async def _by_turn(self, blob: BlobSource, result: MountResult | None, excluded: set[Repository]) -> None:
        """Upload a blob when it is our turn, or mount it from where another brought it meanwhile.

        Args:
            blob: one that dest lacks.
            result: the mount that was tried, if one was; its session is used, or cancelled.
            excluded: where it can't be mounted from.
        """
        waited, turn = 0.0, None
        for _ in range(ROUNDS):
            try:
                turn = await self.turns.take(blob, excluded)
            except BaseException:
                self._let_go(result)
                raise
            waited += turn.waited
            if turn.waited:  # a session that was opened before is old by now
                self._let_go(result)
                result = None
            if isinstance(turn, UploadTurn):
                await self._upload_in_turn(blob, result, turn, waited)
                return
            self._let_go(result)
            result = await self._mount_fresh(blob, turn, waited)
            if result is None:
                return
            excluded |= turn.sources
        await self.turns.decided(blob.descriptor.digest)
        await self._upload_alone(blob, result, (), waited)

    async def _mount_fresh(self, blob: BlobSource, turn: MountTurn, waited: float) -> MountResult | None:
        """Mount a blob from where another brought it; None if it is in dest now, else what the mount left."""
        digest = blob.descriptor.digest
        if self.dest in turn.sources and await self._is_there(blob):
            self._report(blob, "existing", waited=waited)
            return None
        known = replace(self.knowledge.of(digest), sources=tuple(sorted(turn.sources - {self.dest})))
        knowledge = Knowledge({digest: known}, self.knowledge.traits)
        candidates = (await self.mounter.prepare(knowledge, self.dest)).get(digest, ())
        async with self.requests:
            result = await self.mounter.attempt(digest, self.dest, candidates, knowledge, fresh=True)
        return None if self._settled(blob, result, waited) else result

    async def _upload_in_turn(
        self, blob: BlobSource, result: MountResult | None, turn: UploadTurn, waited: float
    ) -> None:
        """Bring a blob with the slot and the lease that `turn` has; whatever happens, others can go on."""
        started = self.clock()
        async with turn.uploading():
            await self._mount_or_upload(blob, result, (), waited)
        self.turns.add(blob.descriptor.size, self.clock() - started)
        await self.turns.uploaded(turn)

    async def _upload_alone(
        self,
        blob: BlobSource,
        result: MountResult | None,
        candidates: Collection[Repository],
        waited: float = 0.0,
    ) -> None:
        """Bring a blob without a turn; its session, if none is in hand, is opened when it has a slot."""
        try:
            await self.uploads.acquire()
        except BaseException:
            self._let_go(result)
            raise
        try:
            await self._mount_or_upload(blob, result, candidates, waited)
        finally:
            self.uploads.release()

    def _let_go(self, result: MountResult | None) -> None:
        if result is not None:
            self.mounter.cancel_later(result.session)

    async def _mount_or_upload(
        self,
        blob: BlobSource,
        result: MountResult | None,
        candidates: Collection[Repository],
        waited: float = 0.0,
    ) -> None:
        """Upload into the session in hand; without one open it by a mount, which may make the upload needless."""
        if result is None:
            digest = blob.descriptor.digest
            result = await self.mounter.attempt(digest, self.dest, tuple(candidates), self.knowledge)
            if self._settled(blob, result, waited):
                return
        await self._upload(blob, result.session or await self.client.start_upload(self.dest))
        self._report(blob, "uploaded", attempts=result.attempts, waited=waited)

    async def _is_there(self, blob: BlobSource) -> bool:
        """Ask the registry whether dest holds the blob; of another size it is another blob, whoever says 200."""
        async with self.requests:
            size = await self.client.head_blob(self.dest, blob.descriptor.digest)
        return size in {SIZE_UNKNOWN, blob.descriptor.size}

    async def _is_needless(self, blob: BlobSource, result: MountResult) -> bool:
        """Tell whether dest holds the blob now, or did already: wrong sources must not cost its bytes."""
        if result.status is not MountStatus.MOUNTED and await self._is_there(blob):
            self.mounter.cancel_later(result.session)
            self._report(blob, "existing", attempts=result.attempts)
            return True
        return self._settled(blob, result)

    def _settled(self, blob: BlobSource, result: MountResult, waited: float = 0.0) -> bool:
        """Tell whether the mount made an upload needless.

        Raises:
            MountRequiredError: it did not, and an upload is out of the question.
        """
        if result.status is MountStatus.MOUNTED:
            self._mounts[blob.descriptor.digest] = result
            self._report(blob, "mounted", source=result.source, attempts=result.attempts, waited=waited)
            return True
        if result.status is MountStatus.MOUNT_REQUIRED:
            self._forbid_upload_of_must_mount(blob.descriptor.digest, result)
        return False

    async def _upload(self, blob: BlobSource, session: UploadSession) -> None:
        digest = blob.descriptor.digest

        def progress(sent: int) -> None:
            self.observer(events.BlobProgress(digest=digest, sent=sent, dest=self.dest))

        try:
            while await self._is_to_start_over(session, blob, progress):
                session = await self.client.start_upload(self.dest)
        finally:
            if isinstance(blob, FetchedBlob):
                blob.let_go()

    async def _is_to_start_over(
        self, session: UploadSession, blob: BlobSource, progress: Callable[[int], None]
    ) -> bool:
        """Upload a blob into a session; tell whether what was sent of it was wrong, and it must be begun anew."""
        try:
            await self.client.upload_blob(session, blob, on_progress=progress)
        except BaseException as error:
            await asyncio.shield(self.client.cancel_upload(session))
            if isinstance(error, StartOverError):
                return True
            refused = isinstance(error, RegistryRefusedError) and "DIGEST_INVALID" in error.codes
            if refused and isinstance(blob, FileBlob):
                raise InvalidLayoutError(
                    f"blob {blob.descriptor.digest} is damaged: the layout's bytes have another digest, says "
                    f"{self.dest.registry}"
                ) from error
            raise
        return False

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
        self,
        blob: BlobSource,
        outcome: events.Outcome,
        *,
        source: Repository | None = None,
        attempts: int = 0,
        waited: float = 0.0,
    ) -> None:
        digest, size = blob.descriptor.digest, blob.descriptor.size
        self._reports[digest] = BlobReport(
            digest=digest, size=size, outcome=outcome, source=source, attempts=attempts, waited=waited
        )
        self.observer(
            events.BlobFinished(digest=digest, size=size, outcome=outcome, source=source, dest=self.dest)
        )
