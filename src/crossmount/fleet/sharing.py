"""Mount or upload one blob in turn with the rest of the fleet: the flow that a push and the proxy share."""

from collections.abc import Awaitable, Callable, Collection
from typing import TypeVar

from crossmount.fleet.turn import MountTurn, Turn, UploadTurn
from crossmount.oci import Repository

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
    measure(clock() - started)
    if defer is None:
        await turn.finish()
    else:
        defer(turn)
    return outcome
