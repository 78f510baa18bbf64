"""The part of one push in the fleet: which blobs take turns, in which order, and when they are published."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import TypeVar

from crossmount import events
from crossmount.fleet import Fleet, Patience, Slots, Turn, UploadTurn, upload_in_turn
from crossmount.fleet.lease import OWN_SECONDS
from crossmount.index.protocol import Knowledge
from crossmount.oci import BlobSource, Digest, Repository

T = TypeVar("T")


class PushTurns:
    """The turns of one push into one repository.

    Args:
        fleet: coordinates the turns; None if this push does not coordinate with others.
        dest: the repository.
        knowledge: the index's answer at the start of the push.
        patience: which blobs to wait for, and how long.
        slots: the push's upload slots.
        blobs: all blobs of the push.
        observer: receives a `BlobWaiting` for each blob that waits.
        clock: seconds.
    """

    def __init__(
        self,
        fleet: Fleet | None,
        dest: Repository,
        *,
        knowledge: Knowledge,
        patience: Patience,
        slots: Slots,
        blobs: Iterable[BlobSource],
        observer: events.Observer,
        clock: Callable[[], float],
    ) -> None:
        self._fleet = fleet
        self._dest = dest
        self._knowledge = knowledge
        self._patience = patience
        self._slots = slots
        self._observer = observer
        self._clock = clock
        self._deferred: list[UploadTurn] = []
        self._after_manifest = knowledge.traits.after_manifest is True
        # On a registry that mounts only after a manifest a push keeps leases while it waits for others. It asks
        # in the order of digests, so that pushes never wait for each other in a circle: see fleet.queues.
        self._undecided = {blob.descriptor.digest for blob in blobs} if self._after_manifest else set()
        self._changed = asyncio.Condition()

    async def take(self, blob: BlobSource, excluded: Collection[Repository]) -> Turn | None:
        """Wait for the turn of a blob that dest lacks; an `UploadTurn` has an upload slot.

        Args:
            blob: the blob.
            excluded: sources that were tried.

        Returns:
            The turn; None if the blob is not worth a wait, or if nobody may upload it.
        """
        digest, size = blob.descriptor.digest, blob.descriptor.size
        if (
            self._fleet is None
            or not self._patience.waits_for(size)
            or self._knowledge.traits.mounts is False  # this registry would not mount another's upload
            or self._knowledge.of(digest).must_mount
        ):
            return None
        async with self._changed:
            await self._changed.wait_for(lambda: not any(other < digest for other in self._undecided))
        turn = await self._fleet.turn(
            digest,
            self._dest,
            size,
            slots=self._slots,
            patience=self._patience,
            excluded=excluded,
            on_wait=lambda into: self._observer(
                events.BlobWaiting(digest=digest, size=size, dest=self._dest, into=into)
            ),
            publishes="manifest" if self._after_manifest else "blob",
            stall_seconds=OWN_SECONDS,
        )
        if isinstance(turn, UploadTurn):
            await self.mark_decided(digest)
        return turn

    async def mark_decided(self, digest: Digest) -> None:
        """Mark a digest as decided, so that greater digests may take their turns. A second call has no effect."""
        self._undecided.discard(digest)
        async with self._changed:
            self._changed.notify_all()

    async def upload(self, turn: UploadTurn, size: int, upload: Callable[[], Awaitable[T]]) -> T:
        """Run `upload` for a blob of `size` bytes, then publish the blob: now, or after the manifest."""

        def measure(seconds: float) -> None:
            if self._fleet is not None:
                self._fleet.meter.add(size, seconds)

        defer = self._deferred.append if self._after_manifest else None
        return await upload_in_turn(turn, upload, measure=measure, clock=self._clock, defer=defer)

    async def publish_deferred(self) -> None:
        """Publish the blobs that had to wait for the manifests, and end their leases."""
        while self._deferred:
            await self._deferred.pop().finish()

    async def release_deferred(self) -> None:
        """End the leases that are left after a failed push, so that others can continue."""
        while self._deferred:
            await self._deferred.pop().release()
