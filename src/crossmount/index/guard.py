"""The guard of an index: a failed index never fails a push, and never delays it for long.

A failed call returns as if the index were empty. After an unanswered call a breaker opens: for some seconds all
calls return at once, without the index. Then one call is the probe; an answer closes the breaker.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import nullcontext
from typing import Any, Literal, TypeVar

from crossmount import events
from crossmount._tasks import collect
from crossmount.errors import CrossmountError, IndexFailedError, IndexUnavailableError, MissingExtraError
from crossmount.index.accounts import GuardedAccounts
from crossmount.index.adapt import adapt
from crossmount.index.aliases import RegistryNames, registry_names_of
from crossmount.index.exclusions import GuardedExclusions
from crossmount.index.outage import Health
from crossmount.index.protocol import (
    BackingServer,
    MountableLayers,
    MountIndex,
    RegistryTraits,
    Sighting,
    backing_server,
)
from crossmount.oci import Located, Repository, as_digest, as_repository
from crossmount.redis.call import Breaker
from crossmount.redis.replies import StartingError

OPEN_SECONDS = 5.0
"""How long the breaker stays open after an unanswered call; after a failed probe up to 8 s."""

PROBE_SECONDS = 0.25
"""How long a push waits for a probe. The probe itself goes on, since its answer ends the outage."""

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

    Attributes:
        unserved: how many calls returned as if the index were empty.
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
        self._deadline = deadline
        self._has_own_deadline = backing_server(index) is not None
        self._health = Health(self._index, observer, lasting=lasting, clock=clock)
        self._clock = clock
        self._breaker = Breaker(OPEN_SECONDS, factor=1.0 if lasting else 2.0)
        self._since: float | None = None  # when the first unanswered call of the outage began
        self._waits: dict[asyncio.Timeout, float] = {}  # running patient calls, with the `seconds` of each
        self._probe: asyncio.Future[Any] | None = None  # the last one; its caller may have gone on without it
        self.unserved = 0

    @property
    def state(self) -> Literal["ok", "degraded"]:
        """`ok` as long as no call failed."""
        return "ok" if self.reason is None else "degraded"

    @property
    def reason(self) -> str | None:
        """Why the last call failed that did; None as long as none did."""
        return self._health.cause

    async def add_source(self, layer: str, source: str | Located, *, must_mount: bool = False) -> None:
        """Add a source; do nothing if the index fails."""
        digest, place = as_digest(layer), as_repository(source)
        await self._try(lambda: self._index.add_source(digest, place, must_mount=must_mount), None)

    async def is_mountable(self, layer: str, dest: str | Located) -> bool:
        """Return the answer of the index; False if it fails."""
        digest, place = as_digest(layer), as_repository(dest)
        return await self._try(lambda: self._index.is_mountable(digest, place), otherwise=False)

    async def must_mount(self, layer: str) -> bool:
        """Return the answer of the index; False if it fails."""
        digest = as_digest(layer)
        return await self._try(lambda: self._index.must_mount(digest), otherwise=False)

    async def sources(self, layer: str, dest: str | Located) -> tuple[Repository, ...]:
        """Return the answer of the index; nothing if it fails."""
        digest, place = as_digest(layer), as_repository(dest)
        return await self._try(lambda: self._index.sources(digest, place), ())

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
        return await self._try(lambda: self._index.locations(digest), ())

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
        if self._probe is not None:
            self._probe.cancel()
        try:
            await self._index.aclose()
        except IndexFailedError as error:
            self._health.failed(error)

    async def call_patiently(
        self,
        call: Callable[[], Awaitable[T]],
        otherwise: T,
        *,
        seconds: float,
        pause: Callable[[], float],
        least: float = 0.0,
    ) -> T:
        """Make a call behind the same breaker, and repeat it for some seconds until it is answered.

        Args:
            call: makes the call; it may run more than once.
            otherwise: the result if the index fails.
            seconds: how long the call is repeated. Counted from the first unanswered call of any caller, so that
                an outage is waited out once.
            pause: returns the seconds between two attempts.
            least: seconds for which the call is attempted in any case, also while the breaker is open.
        """
        if self._breaker.failed and not least:
            return await self._try(call, otherwise)
        failure: CrossmountError | None = None
        while (left := max(least, self._left(seconds))) > 0:
            began, least = self._clock(), 0.0
            wait = asyncio.timeout(self._patience(left))
            try:
                async with wait:
                    self._waits[wait] = seconds
                    answer = await call()
            except TimeoutError:
                failure = _too_late()
            except (IndexUnavailableError, StartingError) as error:
                failure = error
            except (IndexFailedError, MissingExtraError) as error:
                self._note_answered(refused=True)
                self._health.failed(error)
                self.unserved += 1
                return otherwise
            else:
                self._note_answered()
                return answer
            finally:
                self._waits.pop(wait, None)
            self._note_unanswered(began)
            await asyncio.sleep(max(0.0, min(pause(), self._left(seconds))))
        if failure is not None:
            self._open_breaker(failure)
        self.unserved += 1
        return otherwise

    @property
    def unguarded(self) -> MountIndex:
        """The guarded index itself."""
        return self._index

    def report(self, error: IndexFailedError) -> None:
        """Count an error that a caller got from the index's server."""
        self._health.failed(error)

    async def call(self, call: Callable[[], Awaitable[T]]) -> T:
        """Make a call behind the same breaker; errors propagate, for callers that can wait and try again.

        Raises:
            IndexFailedError: the index failed, or the breaker is open.
            MissingExtraError: the embedded server is not installed.
        """
        return await self._call_once(call, probe=self._deadline)

    @property
    def breaker_open(self) -> bool:
        """Whether the breaker is open, so that no calls are made for now."""
        return self._breaker.is_open(self._clock())

    async def _try(self, call: Callable[[], Awaitable[T]], otherwise: T) -> T:
        if not self.breaker_open:
            try:
                return await self._call_once(call, probe=PROBE_SECONDS)
            except (IndexFailedError, MissingExtraError) as error:
                self._health.failed(error)
        self.unserved += 1
        return otherwise

    async def _call_once(self, call: Callable[[], Awaitable[T]], *, probe: float | None) -> T:
        """Make one call and update the breaker; the caller waits for a probe for `probe` seconds at most."""
        now = self._clock()
        if self._breaker.is_open(now):
            raise IndexUnavailableError(self.reason or "the index did not answer, and is not asked for now")
        if not self._breaker.failed:
            return await self._observed(call, now, None if self._has_own_deadline else self._deadline)
        self._breaker.probe(now)  # concurrent calls do not wait for it
        if self._deadline is None or probe is None:
            return await self._observed(call, now, None)
        running = self._probe = asyncio.ensure_future(self._observed(call, now, self._deadline))
        running.add_done_callback(collect)
        try:
            async with asyncio.timeout(probe):
                return await asyncio.shield(running)
        except TimeoutError:  # the probe goes on: a client must learn which servers are silent, to leave them
            self._note_unanswered(now)
            self._open_breaker(error := _too_late())
            raise error from None
        except asyncio.CancelledError:
            running.cancel()
            raise

    async def _observed(self, call: Callable[[], Awaitable[T]], began: float, deadline: float | None) -> T:
        """Make one call within a deadline, and update the breaker when it ends."""
        try:
            async with nullcontext() if deadline is None else asyncio.timeout(deadline):
                answer = await call()
        except TimeoutError:
            self._note_unanswered(began)
            self._open_breaker(error := _too_late())
            raise error from None
        except (IndexUnavailableError, MissingExtraError) as error:  # no answer, or no server to start
            self._note_unanswered(began)
            self._open_breaker(error)
            raise
        except StartingError as error:
            self._note_unanswered(began)
            self._health.failed(error)
            raise
        except IndexFailedError:
            self._note_answered(refused=True)
            raise
        self._note_answered()
        return answer

    def _note_unanswered(self, began: float) -> None:
        """Note that a call which began at `began` got no answer; patient calls in progress end in time."""
        self._since = began if self._since is None else min(self._since, began)
        for wait, seconds in self._waits.items():
            ends = asyncio.get_running_loop().time() + self._left(seconds)
            if not wait.expired() and (wait.when() is None or ends < (wait.when() or 0.0)):
                wait.reschedule(ends)

    def _patience(self, left: float) -> float | None:
        """Return the time limit of a patient call that has `left` seconds; None if the client limits it."""
        if self._has_own_deadline and self._since is None:
            return None
        return left if self._deadline is None else min(left, self._deadline)

    def _left(self, seconds: float) -> float:
        """Return what is left of `seconds`, counted from the first unanswered call."""
        now = self._clock()
        return (now if self._since is None else self._since) + seconds - now

    def _open_breaker(self, error: CrossmountError) -> None:
        """Open the breaker, and report the error."""
        self._breaker.fail(self._clock())
        self._health.failed(error)

    def _note_answered(self, *, refused: bool = False) -> None:
        """Close the breaker: the probe, or a call from before it opened, was answered."""
        self._since, was_failing = None, self._breaker.failed
        self._breaker.succeed()
        (self._health.answered if refused else self._health.served)(again=was_failing)


def _too_late() -> IndexUnavailableError:
    return IndexUnavailableError("the index does not answer in time")
