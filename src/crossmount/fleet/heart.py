"""The leases that this process holds, renewed by a heartbeat from outside of their uploads' own tasks."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

from crossmount.fleet.leases import Lease, Leases

T = TypeVar("T")


class Asks(Protocol):
    """Asks the index's server, and gives `otherwise` if it does not serve."""

    async def __call__(self, call: Callable[[], Awaitable[T]], otherwise: T) -> T:
        """Ask."""
        ...


class Heart:
    """Keeps leases alive until they are released.

    Args:
        leases: where they lie; None if there is no server, and nothing to renew.
        ask: asks the server.
        seconds: from one renewal to the next.

    Attributes:
        held: the leases by their values.
    """

    def __init__(self, leases: Leases | None, *, ask: Asks, seconds: float) -> None:
        self.held: dict[str, Lease] = {}
        self._leases = leases
        self._ask = ask
        self._seconds = seconds
        self._lock = asyncio.Lock()  # a renewal must not bring a lease back that is being released
        self._beating: asyncio.Task[None] | None = None

    def hold(self, lease: Lease) -> None:
        """Renew a lease from now on."""
        self.held[lease.value] = lease
        if self._leases is not None and (self._beating is None or self._beating.done()):
            self._beating = asyncio.create_task(self._beat())

    async def drop(self, value: str) -> None:
        """Release a lease, if it is still held."""
        lease = self.held.pop(value, None)
        if lease is not None:
            await self.release([lease])

    async def release(self, leases: Sequence[Lease]) -> None:
        """End leases, and waits that are shown."""
        store = self._leases
        if store is not None and leases:
            async with self._lock:
                await self._ask(lambda: store.release(leases), None)

    async def aclose(self) -> None:
        """Stop beating, and release what is still held."""
        if self._beating is not None:
            self._beating.cancel()
            await asyncio.gather(self._beating, return_exceptions=True)
            self._beating = None
        await self.release(list(self.held.values()))

    async def _beat(self) -> None:
        """Renew all leases, one round trip a heartbeat, whatever their uploads are doing."""
        while self.held:
            await asyncio.sleep(self._seconds)
            async with self._lock:
                await self._renew()

    async def _renew(self) -> None:
        held, store = list(self.held.values()), self._leases
        if store is None or not held:
            return
        ours = await self._ask(lambda: store.renew(held), [True] * len(held))
        for lease, still in zip(held, ours, strict=True):
            if not still:  # its upload just goes on: a double one is harmless
                self.held.pop(lease.value, None)
