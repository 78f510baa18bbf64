"""One push's part in the fleet: which blobs it takes turns for, in which order, and when it publishes them."""

import asyncio
from collections.abc import Collection, Iterable

from crossmount import events
from crossmount.fleet import Fleet, Patience, Slots, Turn, UploadTurn
from crossmount.index.protocol import Knowledge
from crossmount.oci import BlobSource, Digest, Repository


class Turns:
    """The turns of one push into one repository.

    Args:
        fleet: who decides; None takes no turns.
        dest: the repository.
        knowledge: what the index knew in the beginning.
        patience: what is worth waiting for, and how long.
        slots: the push's upload slots.
        blobs: all blobs of the push.
        observer: told of waiting.
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
    ) -> None:
        self._fleet = fleet
        self._dest = dest
        self._knowledge = knowledge
        self._patience = patience
        self._slots = slots
        self._observer = observer
        self._kept: list[UploadTurn] = []
        self._after_manifest = knowledge.traits.after_manifest is True
        # On a registry that mounts only after a manifest a push keeps leases while it waits for others. That it
        # asks in the order of digests keeps pushes from waiting for each other in a circle: see fleet.table.
        self._undecided = {blob.descriptor.digest for blob in blobs} if self._after_manifest else set()
        self._changed = asyncio.Condition()

    def worth(self, blob: BlobSource) -> bool:
        """Tell whether a blob that dest lacks is to be uploaded by turns."""
        known = self._knowledge.of(blob.descriptor.digest)
        return (
            self._fleet is not None
            and self._patience.waits_for(blob.descriptor.size)
            and self._knowledge.traits.mounts is not False  # what another uploads could not be mounted
            and not known.must_mount  # nobody may upload it
        )

    async def take(self, blob: BlobSource, excluded: Collection[Repository]) -> Turn:
        """Wait for the turn of a blob; with an `UploadTurn` it has an upload slot.

        Args:
            blob: one that is `worth` it.
            excluded: sources that were tried.
        """
        if self._fleet is None:
            raise AssertionError("nobody takes turns alone")
        digest, size = blob.descriptor.digest, blob.descriptor.size
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
        )
        if isinstance(turn, UploadTurn):
            await self.decided(digest)
        return turn

    async def decided(self, digest: Digest) -> None:
        """Let greater digests ask: this one needs no more turns. Doing it twice is harmless."""
        self._undecided.discard(digest)
        async with self._changed:
            self._changed.notify_all()

    def add(self, size: int, seconds: float) -> None:
        """Take in how long an upload took."""
        if self._fleet is not None:
            self._fleet.meter.add(size, seconds)

    async def uploaded(self, turn: UploadTurn) -> None:
        """Publish a blob that the registry confirmed, then end its lease: now, or after the manifest."""
        if self._after_manifest:
            self._kept.append(turn)
        else:
            await turn.finish()

    async def tagged(self) -> None:
        """The manifests were accepted: publish what was kept."""
        while self._kept:
            await self._kept.pop().finish()

    async def give_up(self) -> None:
        """End the leases that are still kept, so that others need not wait for them."""
        while self._kept:
            await self._kept.pop().release()
