"""The leases that this process holds: a heartbeat renews them while their uploads make progress."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

from crossmount._dataclass import dataclass
from crossmount._tasks import collect
from crossmount.fleet.lease import UploadProgress
from crossmount.fleet.lease_store import Lease, LeaseStore

T = TypeVar("T")

LAST_SECONDS = 0.25
"""How long the end of a push may wait for a silent server to release its leases."""


class PatientCall(Protocol):
    """Calls the index's server, and returns `otherwise` if the server does not answer."""

    async def __call__(self, call: Callable[[], Awaitable[T]], otherwise: T, *, least: float = 0.0) -> T:
        """Make the call; try it for `least` seconds even if the server did not answer just now."""
        ...


@dataclass(frozen=True, slots=True)
class HeldLease:
    """A lease that is renewed, and the progress of its upload; None if nobody counts its bytes."""

    lease: Lease
    progress: UploadProgress | None

    def check_stalled(self) -> bool:
        """Compare with the earlier checks, and return whether its upload is stalled."""
        return self.progress is not None and self.progress.check_stalled()

    @property
    def sent(self) -> int | None:
        """The bytes that were sent, if they are counted."""
        return None if self.progress is None else self.progress.sent

    def renewed(self) -> int | None:
        """Return the bytes to show at a renewal, if they are counted."""
        return None if self.progress is None else self.progress.renewed()


class LeaseKeeper:
    """Renews leases until they are released.

    Args:
        store: the leases on the server; None if there is no server, and nothing to renew.
        call: calls the server.
        seconds: seconds between two renewals.
        life: seconds until a lease expires without a renewal.
        clock: monotonic seconds.

    Attributes:
        held: the leases that are renewed, by their values.
    """

    def __init__(
        self,
        store: LeaseStore | None,
        *,
        call: PatientCall,
        seconds: float,
        life: float,
        clock: Callable[[], float],
    ) -> None:
        self.held: dict[str, HeldLease] = {}
        self._unreleased: dict[Lease, float] = {}  # the server did not answer; when they expire by themselves
        self._store = store
        self._call = call
        self._seconds = seconds
        self._life = life
        self._clock = clock
        self._lock = asyncio.Lock()  # a renewal must not restore a lease that is being released
        self._heartbeat: asyncio.Task[None] | None = None
        self._closing = False

    def add(self, lease: Lease, progress: UploadProgress | None = None) -> None:
        """Renew a lease from now on; with `progress` only while its upload is not stalled."""
        self.held[lease.value] = HeldLease(lease, progress)
        self._start_heartbeat()

    async def drop(self, value: str) -> None:
        """Release a lease, if it is still held."""
        held = self.held.pop(value, None)
        if held is not None:
            await self.release([held.lease])

    async def release(self, leases: Sequence[Lease], *, least: float = 0.0) -> None:
        """Release leases, and remove entries of waiters; if the server does not answer, try again later.

        Args:
            leases: the leases, or the waiters' entries.
            least: seconds during which the call is tried in any case.
        """
        store = self._store
        if store is None or not leases:
            return
        async with self._lock:
            done = await self._call(lambda: store.release(leases), False, least=least)
        now = self._clock()
        expiries = {lease: self._unreleased.pop(lease, now + self._life) for lease in leases}
        if not done:
            self._unreleased |= {lease: expiry for lease, expiry in expiries.items() if expiry > now}
        self._start_heartbeat()

    async def aclose(self) -> None:
        """Stop the heartbeat, and release all leases."""
        if self._heartbeat is not None:
            self._heartbeat.cancel()
            await asyncio.gather(self._heartbeat, return_exceptions=True)
        self._closing = True
        await self.release([*(held.lease for held in self.held.values()), *self._unreleased], least=LAST_SECONDS)

    def _start_heartbeat(self) -> None:
        needed = self._store is not None and not self._closing and (self.held or self._unreleased)
        if needed and (self._heartbeat is None or self._heartbeat.done()):
            self._heartbeat = asyncio.create_task(self._beat())
            self._heartbeat.add_done_callback(collect)

    async def _beat(self) -> None:
        """Renew all leases in one round trip a heartbeat."""
        while self.held or self._unreleased:
            await asyncio.sleep(self._seconds)
            for value in [value for value, held in self.held.items() if held.check_stalled()]:
                await self.drop(value)
            async with self._lock:
                await self._renew()
            await self.release(list(self._unreleased))

    async def _renew(self) -> None:
        sent, store = {held.lease: held.renewed() for held in self.held.values()}, self._store
        if store is None or not sent:
            return
        ours = await self._call(lambda: store.renew(sent), [True] * len(sent))
        for lease, still in zip(sent, ours, strict=True):
            if not still:  # its upload continues: uploading a layer twice is harmless
                self.held.pop(lease.value, None)
