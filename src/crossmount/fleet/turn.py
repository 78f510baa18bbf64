"""The turn of a push for a layer that its repository lacks: mount it, or upload it with an upload slot.

`mount_or_upload` and `upload_in_turn` are the flow that a push and the proxy share.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import field
from typing import Protocol, TypeVar

from crossmount._blocking import run_now
from crossmount._dataclass import dataclass
from crossmount.fleet.lease import UploadProgress
from crossmount.oci import Repository


class UploadSlots(Protocol):
    """Limits the concurrent uploads of one push."""

    def try_acquire(self) -> bool:
        """Take a slot, if one is free now."""
        ...

    def return_unused(self) -> None:
        """Free a slot that was not used; other waiters are not informed."""
        ...

    def release(self) -> None:
        """Free a slot after its use."""
        ...


class Slots:
    """Upload slots on a semaphore.

    Args:
        count: the number of slots.
        on_release: called whenever a slot is free again.
    """

    def __init__(self, count: int, *, on_release: Callable[[], None] = lambda: None) -> None:
        self._semaphore = asyncio.Semaphore(count)
        self._on_release = on_release

    def try_acquire(self) -> bool:
        """Take a slot, if one is free now."""
        if self._semaphore.locked():
            return False
        run_now(self._semaphore.acquire())  # a slot is free, so this does not suspend
        return True

    def return_unused(self) -> None:
        """Free a slot that was not used, without a call of `on_release`."""
        self._semaphore.release()

    def release(self) -> None:
        """Free a slot after its use, and call `on_release`."""
        self._semaphore.release()
        self._on_release()

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
        sources: the repositories that hold the layer; dest is among them if somebody else pushed it there.
        waited: seconds that the caller waited for another's upload.
    """

    sources: frozenset[Repository]
    waited: float = 0.0


@dataclass(slots=True, kw_only=True, eq=False)
class UploadTurn:
    """The caller uploads the layer; an upload slot is taken.

    The caller uploads within `uploading`. Then it calls `finish` as soon as the layer can be mounted from its
    repository, or `release` if the layer never will be.

    Attributes:
        slots: the slots that its slot belongs to.
        publish: records in the index that dest holds the layer.
        release: releases the lease, and lets others take their turn. A second call has no effect.
        waited: seconds that the caller waited for another's upload.
        progress: judges the upload by the bytes that it has sent; None if nobody counts them.
    """

    slots: UploadSlots = field(repr=False)
    publish: Callable[[], Awaitable[None]] = field(repr=False)
    release: Callable[[], Awaitable[None]] = field(repr=False)
    waited: float = 0.0
    progress: UploadProgress | None = field(default=None, repr=False)

    @asynccontextmanager
    async def uploading(self) -> AsyncIterator[None]:
        """Free the slot after the block; release the lease at once if the block fails."""
        try:
            try:
                yield
            finally:
                self.slots.release()
        except BaseException:
            await asyncio.shield(self.release())
            raise

    async def give_up(self) -> None:
        """Free the slot and release the lease without an upload."""
        self.slots.release()
        await self.release()

    def count(self, sent: int) -> None:
        """Note how many bytes the uploader has sent so far."""
        if self.progress is not None:
            self.progress.reach(sent)

    async def finish(self) -> None:
        """Publish the source, then release the lease even if that failed."""
        try:
            await self.publish()
        finally:
            await asyncio.shield(self.release())


Turn = MountTurn | UploadTurn


ROUNDS_MAX = 3
"""How often a caller waits for a blob again after it could not mount what another uploaded."""

T = TypeVar("T")


async def mount_or_upload(
    take_turn: Callable[[Collection[Repository]], Awaitable[Turn | None]],
    mount: Callable[[MountTurn, float], Awaitable[T | None]],
    upload: Callable[[UploadTurn | None, float], Awaitable[T]],
    *,
    excluded: Collection[Repository],
) -> T:
    """Wait for turns until the blob is mounted or uploaded, and return the outcome.

    `mount` and `upload` also receive how many seconds the caller has waited for uploads of others.

    Args:
        take_turn: waits for a turn, given the sources that were tried; returns None if the caller must not wait.
        mount: mounts the blob from the turn's sources; returns None if the registry does not mount it.
        upload: uploads the blob, with the turn's lease and slot, or with neither if there is no turn.
        excluded: sources that were tried before.
    """
    tried, waited = set(excluded), 0.0
    for _ in range(ROUNDS_MAX):
        turn = await take_turn(tried)
        if turn is None:
            break
        waited += turn.waited
        if isinstance(turn, UploadTurn):
            return await upload(turn, waited)
        mounted = await mount(turn, waited)
        if mounted is not None:
            return mounted
        tried |= turn.sources
    return await upload(None, waited)


async def upload_in_turn(
    turn: UploadTurn,
    upload: Callable[[], Awaitable[T]],
    *,
    measure: Callable[[float], None],
    clock: Callable[[], float],
    defer: Callable[[UploadTurn], None] | None,
) -> T:
    """Upload with the slot and the lease of `turn`, then publish the source; other waiters continue either way.

    Args:
        turn: the caller's turn.
        upload: uploads the blob; it returns when the registry has confirmed the blob.
        measure: receives the seconds that the upload took.
        clock: seconds.
        defer: takes over the turn on a registry that mounts a blob only after a manifest references it; None
            publishes at once.
    """
    started = clock()
    async with turn.uploading():
        outcome = await upload()
    if turn.progress is not None:
        turn.progress.complete()
    measure(clock() - started)
    if defer is None:
        await turn.finish()
    else:
        defer(turn)
    return outcome
