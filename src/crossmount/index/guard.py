"""The guard of an index: a failed index never fails a push, and never delays it for long.

A failed call returns as if the index were empty. Where look-ups have servers of their own (`read_from`), they have
a breaker of their own too: they go on while the primary cannot be reached, and the other way round.
"""

import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Literal, TypeVar

from crossmount import events
from crossmount.errors import IndexFailedError
from crossmount.index.accounts import GuardedAccounts
from crossmount.index.adapt import adapt
from crossmount.index.aliases import RegistryNames, registry_names_of
from crossmount.index.exclusions import GuardedExclusions
from crossmount.index.guarded_calls import GuardedCalls
from crossmount.index.outage import Health
from crossmount.index.protocol import (
    BackingServer,
    MountableLayers,
    MountIndex,
    RegistryTraits,
    Sighting,
    backing_server,
    read_link_of,
)
from crossmount.oci import Located, Repository, as_digest, as_repository

DEADLINE_SECONDS = 5.0
"""How long a call may take on a user's own index. The client of an index on a server ends calls earlier itself."""

T = TypeVar("T")


class GuardedIndex(GuardedExclusions, GuardedAccounts):
    """An index whose calls never fail, for callers that can do without it.

    Args:
        index: the index to guard.
        observer: receives an `IndexDegraded` when the index first fails.
        clock: seconds, for the breaker.
        deadline: seconds that a call may take; None where nothing can interrupt it (no event loop). For an index
            on a server this limits probes only: the client limits each call itself, from its turn on, and a call
            that waits for its turn must not count as unanswered.
        lasting: report each outage and its end, not only the first failure; and do not double the time that
            the breaker is open after a failed probe.
    """

    def __init__(
        self,
        index: MountableLayers,
        *,
        observer: events.Observer = events.ignore,
        clock: Callable[[], float] = time.monotonic,
        deadline: float | None = DEADLINE_SECONDS,
        lasting: bool = False,
    ) -> None:
        self._index = adapt(index)

        def calls(health: Health) -> GuardedCalls:
            limits_itself = backing_server(index) is not None
            return GuardedCalls(
                health, clock=clock, deadline=deadline, limits_itself=limits_itself, lasting=lasting
            )

        health = Health(self._index, observer, lasting=lasting, clock=clock)
        self._calls = self._reads = calls(health)
        if (link := read_link_of(self._index)) is not None:
            self._reads = calls(Health(link, observer, lasting=lasting, clock=clock, beside=health))

    @property
    def state(self) -> Literal["ok", "degraded"]:
        """`ok` as long as no call failed."""
        return "ok" if self.reason is None else "degraded"

    @property
    def reason(self) -> str | None:
        """Why the last call failed that did; None as long as none did."""
        return self._calls.health.cause or self._reads.health.cause

    @property
    def unserved(self) -> int:
        """How many calls returned as if the index were empty."""
        return sum(each.unserved for each in {self._calls, self._reads})

    async def add_source(self, layer: str, source: str | Located, *, must_mount: bool = False) -> None:
        """Add a source; do nothing if the index fails."""
        digest, place = as_digest(layer), as_repository(source)
        await self._try(lambda: self._index.add_source(digest, place, must_mount=must_mount), None)

    async def is_mountable(self, layer: str, dest: str | Located) -> bool:
        """Return the answer of the index; False if it fails."""
        digest, place = as_digest(layer), as_repository(dest)
        return await self._try_read(lambda: self._index.is_mountable(digest, place), otherwise=False)

    async def must_mount(self, layer: str) -> bool:
        """Return the answer of the index; False if it fails."""
        digest = as_digest(layer)
        return await self._try_read(lambda: self._index.must_mount(digest), otherwise=False)

    async def sources(self, layer: str, dest: str | Located) -> tuple[Repository, ...]:
        """Return the answer of the index; nothing if it fails."""
        digest, place = as_digest(layer), as_repository(dest)
        return await self._try_read(lambda: self._index.sources(digest, place), ())

    async def record(self, sightings: Iterable[Sighting]) -> None:
        """Record sightings; do nothing if the index fails."""
        await self._try(lambda: self._index.record(sightings), None)

    async def forget(self, layer: str, *sources: str | Located) -> None:
        """Forget sources; do nothing if the index fails."""
        digest, places = as_digest(layer), [as_repository(source) for source in sources]
        await self._try(lambda: self._index.forget(digest, *places), None)

    async def clear_must_mount(self, layer: str) -> None:
        """Lift the flag; do nothing if the index fails."""
        digest = as_digest(layer)
        await self._try(lambda: self._index.clear_must_mount(digest), None)

    async def locations(self, layer: str) -> tuple[Repository, ...]:
        """Return the answer of the index; nothing if it fails."""
        digest = as_digest(layer)
        return await self._try_read(lambda: self._index.locations(digest), ())

    async def record_traits(self, registry: str, traits: RegistryTraits) -> None:
        """Record traits; do nothing if the index fails."""
        await self._try(lambda: self._index.record_traits(registry, traits), None)

    def server(self) -> BackingServer | None:
        """Return the server of the guarded index; None if it has none."""
        return backing_server(self._index)

    def registry_names(self) -> RegistryNames:
        """Return the names of registries, as the guarded index uses them."""
        return registry_names_of(self._index)

    async def aclose(self) -> None:
        """Close the guarded index, also while the breaker is open."""
        for calls in (self._calls, self._reads):
            calls.cancel_probe()
        try:
            await self._index.aclose()
        except IndexFailedError as error:
            self._calls.health.failed(error)

    async def call_patiently(
        self,
        call: Callable[[], Awaitable[T]],
        otherwise: T,
        *,
        seconds: float,
        pause: Callable[[], float],
        least: float = 0.0,
    ) -> T:
        """Make a call, and repeat it until it is answered: see `GuardedCalls.call_patiently`."""
        return await self._calls.call_patiently(call, otherwise, seconds=seconds, pause=pause, least=least)

    @property
    def unguarded(self) -> MountIndex:
        """The guarded index itself."""
        return self._index

    def report(self, error: IndexFailedError) -> None:
        """Count an error that a caller got from the index's server."""
        self._calls.health.failed(error)

    async def call(self, call: Callable[[], Awaitable[T]]) -> T:
        """Make a call behind the same breaker; errors propagate: see `GuardedCalls.call`."""
        return await self._calls.call(call)

    @property
    def breaker_open(self) -> bool:
        """Whether the breaker is open, so that no calls are made for now."""
        return self._calls.breaker_open

    async def _try(self, call: Callable[[], Awaitable[T]], otherwise: T) -> T:
        return await self._calls.attempt(call, otherwise)

    async def _try_read(self, call: Callable[[], Awaitable[T]], otherwise: T) -> T:
        return await self._reads.attempt(call, otherwise)
