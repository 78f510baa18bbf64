"""The latency of registries, measured for those that an operator names.

The index names registries too, but anybody who can write to it could name any host: those are never contacted.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence

from crossmount._tasks import Closing
from crossmount.errors import CrossmountError
from crossmount.registry import RegistryClient

INTERVAL_SECONDS = 15.0


class LatencyProbes(Closing):
    """Asks registries for `/v2/` without credentials, each every few seconds.

    Args:
        clients: a client for each registry; they are closed with this.
        monotonic: seconds, from any start.
    """

    def __init__(
        self, clients: Sequence[RegistryClient], *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._clients = clients
        self._monotonic = monotonic
        self._seconds: dict[str, float] = {}
        self._tasks = [asyncio.create_task(self._measure(client)) for client in clients]

    def latencies(self) -> Mapping[str, float]:
        """Return the seconds until the last answer of each registry, of those that answered."""
        return dict(self._seconds)

    async def aclose(self) -> None:
        """Stop, and close the clients."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(client.aclose() for client in self._clients))

    async def _measure(self, client: RegistryClient) -> None:
        while True:
            started = self._monotonic()
            try:
                await client.ping()
            except CrossmountError:
                self._seconds.pop(client.registry, None)
            else:
                self._seconds[client.registry] = self._monotonic() - started
            await asyncio.sleep(INTERVAL_SECONDS)
