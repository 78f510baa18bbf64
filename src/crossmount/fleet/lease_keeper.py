"""The leases that this process holds, renewed by a heartbeat from outside of their uploads' own tasks."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

from crossmount.fleet.lease_store import Lease, LeaseStore

T = TypeVar("T")

LAST_SECONDS = 0.25
"""How long the end of a push may take to release what a silent server kept."""


class Asks(Protocol):
    """Asks the index's server, and gives `otherwise` if it does not serve."""

    async def __call__(self, call: Callable[[], Awaitable[T]], otherwise: T, *, least: float = 0.0) -> T:
        """Ask; for `least` seconds in any case, also one that did not answer just now."""
        ...


class LeaseKeeper:
    """Keeps leases alive until they are released.

    Args:
        leases: where they lie; None if there is no server, and nothing to renew.
        ask: asks the server.
        seconds: from one renewal to the next.
        life: seconds that a lease lives without any.
        clock: seconds.

    Attributes:
        held: the leases by their values.
    """

    def __init__(
        self,
        leases: LeaseStore | None,
        *,
        ask: Asks,
        seconds: float,
        life: float,
        clock: Callable[[], float],
    ) -> None:
        self.held: dict[str, Lease] = {}
        self._abandoned: dict[Lease, float] = {}  # could not be released; when they run out by themselves
        self._leases = leases
        self._ask = ask
        self._seconds = seconds
        self._life = life
        self._clock = clock
        self._lock = asyncio.Lock()  # a renewal must not bring a lease back that is being released
        self._beating: asyncio.Task[None] | None = None
        self._ending = False

    def hold(self, lease: Lease) -> None:
        """Renew a lease from now on."""
        self.held[lease.value] = lease
        self._start()

    async def drop(self, value: str) -> None:
        """Release a lease, if it is still held."""
        lease = self.held.pop(value, None)
        if lease is not None:
            await self.release([lease])

    async def release(self, leases: Sequence[Lease], *, least: float = 0.0) -> None:
        """End leases, and waits that are shown; where the server does not serve, that is made good later.

        Args:
            leases: which.
            least: seconds for which the server is asked in any case.
        """
        store = self._leases
        if store is None or not leases:
            return

        async with self._lock:
            done = await self._ask(lambda: store.release(leases), False, least=least)
        now = self._clock()
        ends = {lease: self._abandoned.pop(lease, now + self._life) for lease in leases}
        if not done:
            self._abandoned |= {lease: end for lease, end in ends.items() if end > now}
        self._start()

    async def aclose(self) -> None:
        """Stop beating, and release what is still held."""
        if self._beating is not None:
            self._beating.cancel()
            await asyncio.gather(self._beating, return_exceptions=True)
        self._ending = True
        await self.release([*self.held.values(), *self._abandoned], least=LAST_SECONDS)

    def _start(self) -> None:
        needed = self._leases is not None and not self._ending and (self.held or self._abandoned)
        if needed and (self._beating is None or self._beating.done()):
            self._beating = asyncio.create_task(self._beat())

    async def _beat(self) -> None:
        """Renew all leases, one round trip a heartbeat, whatever their uploads are doing."""
        while self.held or self._abandoned:
            await asyncio.sleep(self._seconds)
            async with self._lock:
                await self._renew()
            await self.release(list(self._abandoned))

    async def _renew(self) -> None:
        held, store = list(self.held.values()), self._leases
        if store is None or not held:
            return
        ours = await self._ask(lambda: store.renew(held), [True] * len(held))
        for lease, still in zip(held, ours, strict=True):
            if not still:  # its upload just goes on: a double one is harmless
                self.held.pop(lease.value, None)
