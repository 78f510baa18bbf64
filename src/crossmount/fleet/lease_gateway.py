"""Calls of a fleet to the index and its server, which wait out a short outage and never raise."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

from crossmount.fleet.lease import LeaseValue
from crossmount.fleet.lease_store import ClaimAnswers, LeaseStore
from crossmount.fleet.waiting import Claim, ClaimAnswer, IndexDown, SourcesFound
from crossmount.index.guard import GuardedIndex
from crossmount.index.protocol import Sighting
from crossmount.oci import Digest

GRACE_SECONDS = 1.25
"""How long a server that answered before may be silent until work continues without it: enough for a restart. With
the upload that follows, an outage costs a push less than two seconds in all (tests/bench/trouble.py)."""

FIRST_SECONDS = 0.5
"""The shortest wait for the answer to the first call."""

T = TypeVar("T")


class LeaseGateway:
    """Asks one index and its server.

    Args:
        guard: the index.
        store: the leases on the index's server; None if the index has no server.
        pause: returns the seconds between two tries.

    Attributes:
        asked: whether the server was called before.
    """

    def __init__(self, guard: GuardedIndex, store: LeaseStore | None, *, pause: Callable[[], float]) -> None:
        self._guard = guard
        self._store = store
        self._pause = pause
        self.asked = False

    async def claim(self, claims: Sequence[Claim]) -> list[ClaimAnswer]:
        """Send all claims; without a server the answers come from the sources in the index."""
        store = self._store
        if store is None:
            return [await self._from_index(claim) if claim.take else IndexDown() for claim in claims]
        found = await self.ask(lambda: store.claim(claims), ClaimAnswers([IndexDown() for _ in claims]))
        if found.refusal is not None:
            self._guard.report(found.refusal)
        return found.answers

    async def read_holder(self, layer: Digest, registry: str) -> LeaseValue | None:
        """Return the lease of the upload of a layer; None if there is no upload, or no server."""
        store = self._store
        return None if store is None else await self.ask(lambda: store.read(layer, registry), None)

    async def show_waiters(self, waiting: Mapping[tuple[str, Digest], Sequence[str]]) -> None:
        """Write the waiters of this process to the server, for `crossmount fleet`."""
        store = self._store
        if store is not None and waiting:
            await self.ask(lambda: store.show_waiters(waiting), None)

    async def record(self, sighting: Sighting) -> None:
        """Record a new source in the index."""
        await self.ask(lambda: self._guard.unguarded.record([sighting]), None)

    async def ask(self, call: Callable[[], Awaitable[T]], otherwise: T, *, least: float = 0.0) -> T:
        """Call the index's server; retry for a while if a server that answered before does not answer.

        Without the retries a server that restarts would cost an upload for each waiter. The first call waits even
        if the server did not answer other callers: the cause may have been this process.

        Args:
            call: the call.
            otherwise: the result if the server does not answer.
            least: seconds during which the server is asked in any case.
        """
        least, self.asked = max(least, 0.0 if self.asked else FIRST_SECONDS), True
        return await self._guard.call_patiently(
            call, otherwise, seconds=GRACE_SECONDS, pause=self._pause, least=least
        )

    async def _from_index(self, claim: Claim) -> ClaimAnswer:
        waiter = claim.waiter
        known = (await self._guard.look_up([waiter.layer], waiter.dest)).of(waiter.layer)
        names = {source.name for source in known.sources} | ({waiter.dest.name} if known.in_dest else set())
        return SourcesFound(frozenset(names)) if names - waiter.excluded else IndexDown()
