"""One upload of a layer for all callers of this proxy and all processes that share its index.

A HEAD for a blob that somebody is uploading waits a short time for that upload. A spooled upload waits after the
proxy has read it; a relayed upload waits before its bytes are read. No waiter has a request to the registry open.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Collection
from typing import Literal

from crossmount._dataclass import dataclass
from crossmount.errors import CrossmountError
from crossmount.fleet import Fleet, MountTurn, Patience, Slots, Turn, UploadTurn, mount_or_upload, upload_in_turn
from crossmount.fleet.lease import OWN_SECONDS, PACED_SECONDS
from crossmount.oci import Descriptor, Manifest, Repository
from crossmount.proxy.auth.callers import Agent, Caller
from crossmount.proxy.recorder import ProxyRecorder
from crossmount.proxy.uploads.attempts import MountAttempt
from crossmount.proxy.uploads.leases import DeferredLeases, EarlyLeases
from crossmount.proxy.uploads.mounting import CallerMounter

PACED_MAX = 4096
"""The limit of concurrent uploads that are relayed at their clients' pace; connections limit them first."""

OCTET_STREAM = "application/octet-stream"


Upload = Callable[[Callable[[int], None]], Awaitable[None]]
"""Sends a blob to the registry, and calls its argument with the bytes that were sent so far."""


def _ignore(sent: int) -> None:
    del sent


class BlobNotAcceptedError(Exception):
    """The registry refused a blob, and its answer went to the client."""


@dataclass(frozen=True, slots=True)
class BlobOutcome:
    """How a blob came into its repository.

    Attributes:
        mounted: the mount, if it was mounted.
        existing: whether somebody else pushed it into that repository meanwhile.
        waited: seconds that the caller waited for another's upload.
    """

    mounted: MountAttempt | None = None
    existing: bool = False
    waited: float = 0.0

    @property
    def label(self) -> Literal["mounted", "existing", "uploaded"]:
        """The outcome's name in metrics and logs."""
        if self.mounted is not None:
            return "mounted"
        return "existing" if self.existing else "uploaded"


class ProxyTurns:
    """Decides which callers of this proxy upload a blob, and which wait for another's upload.

    Args:
        fleet: coordinates the turns.
        mounter: mounts with a caller's rights.
        recorder: records uploads without a turn; uploads with a turn are published by the fleet.
        patience: which blobs to wait for, and how long.
        hold: the longest wait of a HEAD in seconds; 0 never waits.
        uploads: how many spooled blobs are sent to the registry at once; relayed uploads are not counted.
        clock: seconds, from any start.

    Attributes:
        early: takes leases before a digest is named.
    """

    def __init__(
        self,
        fleet: Fleet,
        mounter: CallerMounter,
        recorder: ProxyRecorder,
        *,
        patience: Patience,
        hold: float,
        uploads: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fleet = fleet
        self._mounter = mounter
        self._recorder = recorder
        self._patience = patience
        self._hold = min(hold, patience.limit)
        self._slots = Slots(uploads, on_release=fleet.wake)
        self._paced = Slots(PACED_MAX, on_release=fleet.wake)
        self._clock = clock
        self._deferred = DeferredLeases(fleet, clock=clock)
        self.early = EarlyLeases(fleet, mounter, slots=self._paced, may_wait=self._may_wait)

    def waits_for(self, caller: Caller, size: int | None) -> bool:
        """Return whether a blob of `size` bytes (None: unknown) is uploaded in turn."""
        return caller.agent is not None and size is not None and self._patience.waits_for(size)

    async def wait_and_mount(self, caller: Caller, attempt: MountAttempt) -> BlobOutcome | None:
        """Wait a short time while somebody else uploads a blob, and mount it afterwards.

        Only a caller that may read the uploader's repository waits: the delay reveals the upload.

        Args:
            caller: the client.
            attempt: the mount that was tried before.

        Returns:
            How the blob came into the repository, at once if the attempt mounted it; None if it did not.
        """
        if attempt.mounted:
            return BlobOutcome(mounted=attempt)
        outcome = await self._wait_and_mount(caller, attempt)
        if outcome is None:
            await self._mounter.privacy.wait_until(attempt.answer_at)
        return outcome

    async def _wait_and_mount(self, caller: Caller, attempt: MountAttempt) -> BlobOutcome | None:
        if self._hold <= 0 or caller.agent is None or not self._may_wait(caller, attempt):
            return None
        try:
            async with asyncio.timeout(self._hold):
                turn = await self._watch(caller, caller.agent, attempt)
        except TimeoutError:
            return None
        return None if turn is None else await self._mount(caller, attempt, turn, turn.waited)

    async def mount_or_upload(
        self,
        caller: Caller,
        blob: Descriptor,
        attempt: MountAttempt,
        *,
        upload: Upload,
        paced: bool = False,
        taken: UploadTurn | None = None,
    ) -> BlobOutcome:
        """Upload a blob when its turn comes, or mount it from where another uploaded it meanwhile.

        Args:
            caller: the client.
            blob: the digest and size.
            attempt: the mount that was tried before.
            upload: sends the blob to the registry; it returns when the registry has confirmed the blob. It gets a
                function that takes the bytes that were sent so far.
            paced: the client's pace limits the upload: it needs no slot of the spooled uploads, and does not count
                in the measured upload rate.
            taken: the turn, if it was taken before the digest was named.

        Raises:
            RegistryError: the registry refused the blob.
        """
        if taken is not None:
            if taken.progress is not None:
                taken.progress.size = blob.size
            await self._upload_in_turn(taken, blob, attempt, upload, paced=True)
            return BlobOutcome()
        slots, agent = self._paced if paced else self._slots, caller.agent
        await self._mounter.privacy.wait_until(attempt.answer_at)

        def accepts(name: str) -> bool:
            """Wait only for a holder whose repository this caller can read."""
            return self._mounter.allows(name, attempt.dest, caller) and (
                agent is not None and self._mounter.privacy.accepts(agent, attempt.dest, blob.digest, name)
            )

        async def take_turn(excluded: Collection[Repository]) -> Turn | None:
            if not self.waits_for(caller, blob.size) or not self._may_wait(caller, attempt):
                return None
            return await self._fleet.turn(
                blob.digest,
                attempt.dest,
                blob.size,
                slots=slots,
                patience=self._patience,
                excluded=excluded,
                accepts=accepts,
                publishes="manifest" if attempt.after_manifest else "blob",
                stall_seconds=PACED_SECONDS if paced else OWN_SECONDS,
            )

        async def mount(turn: MountTurn, waited: float) -> BlobOutcome | None:
            return await self._mount(caller, attempt, turn, waited)

        async def upload_blob(turn: UploadTurn | None, waited: float) -> BlobOutcome:
            began = self._clock()
            if turn is None:
                async with slots:
                    began = self._clock()
                    await upload(_ignore)
                self._recorder.record_blob(attempt.dest, blob.digest, blob.size)
            else:
                await self._upload_in_turn(turn, blob, attempt, upload, paced=paced)
            self._recorder.ledger.note_upload(attempt.dest, blob.digest, began=began, ended=self._clock())
            return BlobOutcome(waited=waited)

        return await mount_or_upload(take_turn, mount, upload_blob, excluded=attempt.tried)

    async def mount_or_relay(
        self, caller: Caller, attempt: MountAttempt, size: int | None, *, upload: Upload
    ) -> BlobOutcome | None:
        """Do the same for a blob whose bytes the client has not sent yet.

        Args:
            caller: the client.
            attempt: the mount that was tried before.
            size: the blob's bytes as the client announced them; None if it did not.
            upload: relays the blob; it raises `BlobNotAcceptedError` if the registry refused the blob.

        Returns:
            How the blob came into the repository; None if the registry refused it.
        """
        blob = Descriptor(OCTET_STREAM, attempt.digest, size or 0)
        try:
            return await self.mount_or_upload(caller, blob, attempt, upload=upload, paced=True)
        except BlobNotAcceptedError:
            return None

    async def publish_deferred(self, dest: Repository, manifest: Manifest) -> None:
        """Publish the blobs that an accepted manifest references, if they had to wait for it."""
        for turn in self._deferred.take(dest, [blob.digest for blob in manifest.blobs]):
            await turn.finish()

    async def release_idle(self, is_active: Callable[[str], bool]) -> None:
        """Release the leases of abandoned pushes, whose manifest will not come.

        Args:
            is_active: returns whether a push into a repository is active now.
        """
        for turn in self._deferred.take_idle(is_active):
            await turn.release()

    async def aclose(self) -> None:
        """Release all deferred leases."""
        for turn in self._deferred.take_all():
            await turn.release()

    def _may_wait(self, caller: Caller, attempt: MountAttempt) -> bool:
        """Return whether another's upload could be mounted for a caller, and whether the blob may be uploaded."""
        knowledge = attempt.knowledge
        return (
            self._patience.limit > 0
            and self._mounter.permissions.may_push(caller, attempt.dest.name)
            and caller.is_admitted
            and knowledge.traits.mounts is not False
            and not knowledge.of(attempt.digest).must_mount
            and not self._deferred.has_any(attempt.dest)
        )

    async def _watch(self, caller: Caller, agent: Agent, attempt: MountAttempt) -> MountTurn | None:
        dest, digest = attempt.dest, attempt.digest
        uploader = await self._fleet.uploader(digest, dest.registry)
        if uploader is None or not self._mounter.allows(uploader.name, dest, caller):
            return None
        if uploader != dest and not await self._mounter.privacy.can_read(
            caller, agent, dest, uploader, digest, answer_at=attempt.answer_at
        ):
            return None
        return await self._fleet.watch(
            digest,
            dest,
            seconds=self._hold,
            excluded=attempt.tried,
            accepts=lambda name: self._mounter.allows(name, dest, caller),
        )

    async def _mount(
        self, caller: Caller, attempt: MountAttempt, turn: MountTurn, waited: float
    ) -> BlobOutcome | None:
        """Mount a blob from where another uploaded it; None on any failure, so that it is uploaded."""
        dest, digest, agent = attempt.dest, attempt.digest, caller.agent
        if agent is not None and dest in turn.sources:
            with contextlib.suppress(CrossmountError):
                if await agent.client.head_blob(dest, digest) is not None:
                    return BlobOutcome(existing=True, waited=waited)
        attempt = await self._mounter.mount_from(caller, dest, digest, turn.sources - {dest})
        return BlobOutcome(mounted=attempt, waited=waited) if attempt.mounted else None

    async def _upload_in_turn(
        self,
        turn: UploadTurn,
        blob: Descriptor,
        attempt: MountAttempt,
        upload: Upload,
        *,
        paced: bool,
    ) -> None:
        def measure(seconds: float) -> None:
            if not paced:
                self._fleet.meter.add(blob.size, seconds)

        def defer(turn: UploadTurn) -> None:
            self._deferred.add(attempt.dest, blob.digest, turn)

        await upload_in_turn(
            turn,
            lambda: upload(turn.count),
            measure=measure,
            clock=self._clock,
            defer=defer if attempt.after_manifest else None,
        )
