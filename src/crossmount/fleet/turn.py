"""What a push is told about a layer that its repository lacks."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

from crossmount._blocking import run_now
from crossmount.oci import Repository


class UploadSlots(Protocol):
    """How many blobs of one push may be on their way at once."""

    def try_acquire(self) -> bool:
        """Take a slot if that needs no waiting."""
        ...

    def return_unused(self) -> None:
        """Free a slot that was taken and not used: nothing changed that anybody should look at."""
        ...

    def release(self) -> None:
        """Free a slot that was used."""
        ...


class Slots:
    """Upload slots on a semaphore: see `UploadSlots`.

    Args:
        count: how many.
        on_release: called whenever one is free again.
    """

    def __init__(self, count: int, *, on_release: Callable[[], None] = lambda: None) -> None:
        self._semaphore = asyncio.Semaphore(count)
        self._freed = on_release

    def try_acquire(self) -> bool:
        """See `UploadSlots`."""
        if self._semaphore.locked():
            return False
        run_now(self._semaphore.acquire())  # it is free, so this does not suspend
        return True

    def return_unused(self) -> None:
        """See `UploadSlots`."""
        self._semaphore.release()

    def release(self) -> None:
        """See `UploadSlots`."""
        self._semaphore.release()
        self._freed()

    async def acquire(self) -> None:
        """Wait for a slot and take it."""
        await self._semaphore.acquire()

    async def __aenter__(self) -> None:
        await self.acquire()

    async def __aexit__(self, *exc: object) -> None:
        self.release()


@dataclass(frozen=True, slots=True, kw_only=True)
class MountTurn:
    """The layer can be mounted now.

    Attributes:
        sources: from where, dest itself among them if somebody else brought it there.
        waited: seconds that another's upload was waited for.
    """

    sources: frozenset[Repository]
    waited: float = 0.0


@dataclass(slots=True, kw_only=True, eq=False)
class UploadTurn:
    """The layer is to be uploaded, by the one who has this; a slot for it is taken.

    The caller uploads within `uploading`, then calls `finish` as soon as the layer can be mounted from its
    repository, or `release` if that will never be.

    Attributes:
        waited: seconds that another's upload was waited for.
        slots: where its slot is from.
        publish: tells everybody that dest holds the layer.
        release: lets others take their turn. Doing it twice is harmless.
    """

    slots: UploadSlots = field(repr=False)
    publish: Callable[[], Awaitable[None]] = field(repr=False)
    release: Callable[[], Awaitable[None]] = field(repr=False)
    waited: float = 0.0

    @asynccontextmanager
    async def uploading(self) -> AsyncIterator[None]:
        """Upload in this block: its slot is free after it, and if it fails others take their turn at once."""
        try:
            try:
                yield
            finally:
                self.slots.release()
        except BaseException:
            await asyncio.shield(self.release())
            raise

    async def finish(self) -> None:
        """Publish, then end the lease, whatever became of that."""
        try:
            await self.publish()
        finally:
            await asyncio.shield(self.release())


Turn = MountTurn | UploadTurn
