"""What a fleet asks the index and its server, patiently, and what it takes for an answer where there is none."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

from crossmount.fleet.lease import LeaseValue
from crossmount.fleet.lease_store import ClaimAnswers, LeaseStore
from crossmount.fleet.waiting import Claim, ClaimAnswer, IndexDown, SourcesFound
from crossmount.index.guard import GuardedIndex
from crossmount.index.protocol import Sighting
from crossmount.oci import Digest

GRACE_SECONDS = 1.25
"""How long a server that served until now may be silent before work goes on without it: time to restart; with what
is uploaded then, all in all it costs a push less than two seconds (tests/bench/trouble.py)."""

FIRST_SECONDS = 0.5
"""How long the first question waits in any case."""

T = TypeVar("T")


class LeaseGateway:
    """Asks one index and its server.

    Args:
        guard: the index.
        leases: the leases on its server; None if it has none.
        pause: seconds from one try to the next.

    Attributes:
        asked: whether the server was asked anything yet.
    """

    def __init__(self, guard: GuardedIndex, leases: LeaseStore | None, *, pause: Callable[[], float]) -> None:
        self._guard = guard
        self._leases = leases
        self._pause = pause
        self.asked = False

    async def answers(self, claims: Sequence[Claim]) -> list[ClaimAnswer]:
        """Ask for all claims; without a server, what the index itself knows by now is all there is to ask."""
        leases = self._leases
        if leases is None:
            return [await self._from_index(claim) if claim.take else IndexDown() for claim in claims]
        served = await self.ask(lambda: leases.claim(claims), ClaimAnswers([IndexDown() for _ in claims]))
        if served.trouble is not None:
            self._guard.note(served.trouble)
        return served.answers

    async def holder(self, layer: Digest, registry: str) -> LeaseValue | None:
        """Ask who uploads a layer now."""
        leases = self._leases
        return None if leases is None else await self.ask(lambda: leases.read(layer, registry), None)

    async def show(self, waiting: Mapping[tuple[str, Digest], Sequence[str]]) -> None:
        """Show who waits in this process."""
        leases = self._leases
        if leases is not None and waiting:
            await self.ask(lambda: leases.show(waiting), None)

    async def record(self, sighting: Sighting) -> None:
        """Tell everybody of a layer that was brought."""
        await self.ask(lambda: self._guard.unguarded.record([sighting]), None)

    async def ask(self, call: Callable[[], Awaitable[T]], otherwise: T, *, least: float = 0.0) -> T:
        """Ask the index's server; one that served until now is asked again for a while before it counts as gone.

        A server that restarts would otherwise cost an upload for each that waits at that moment. And the first
        question is asked even if the server did not answer before: then it may have been us who were too slow.

        Args:
            call: asks.
            otherwise: what to return if it does not serve.
            least: seconds that it is asked in any case.
        """
        least, self.asked = max(least, 0.0 if self.asked else FIRST_SECONDS), True
        return await self._guard.insist(call, otherwise, seconds=GRACE_SECONDS, pause=self._pause, least=least)

    async def _from_index(self, claim: Claim) -> ClaimAnswer:
        waiter = claim.waiter
        known = (await self._guard.look_up([waiter.layer], waiter.dest)).of(waiter.layer)
        names = {source.name for source in known.sources} | ({waiter.dest.name} if known.in_dest else set())
        return SourcesFound(frozenset(names)) if names - waiter.excluded else IndexDown()
