"""Promise 2: the index never fails a push, and never holds it up for long.

A failed call is answered as if nothing were known. After one that got no answer a breaker opens: for some
seconds calls return at once, then one call probes whether the index is back.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import nullcontext
from typing import Literal, TypeVar

from crossmount import events
from crossmount.errors import CrossmountError, IndexFailedError, IndexUnavailableError, MissingExtraError
from crossmount.index.adapt import adapt
from crossmount.index.backing_server import BackingServer, backing_server
from crossmount.index.protocol import Knowledge, MountableLayers, MountIndex, RegistryTraits, Sighting
from crossmount.oci import Digest, Located, Repository
from crossmount.redis.breaker import Breaker
from crossmount.redis.replies import StartingError

OPEN_SECONDS = 5.0
"""How long the index is left alone after it gave no answer; each time that it still gives none, twice as long."""

PROBE_SECONDS = 0.25
"""What a call may take that finds out whether a silent index is back: somebody may wait for it."""

DEADLINE_SECONDS = 5.0
"""How long a call may take on an index of a user's own. One on a server ends its calls itself, and sooner."""

_log = logging.getLogger("crossmount.index")

T = TypeVar("T")


class GuardedIndex:
    """An index that never fails: for whoever must go on without it.

    Args:
        index: what is guarded; whoever made it closes it.
        observer: told once, with an `IndexDegraded`, that the index does not serve.
        clock: seconds, for how long the breaker stays open.
        deadline: seconds after which a call is given up; None where nothing can interrupt it (no event loop). On
            an index that lies on a server it bounds nothing but probes: the client bounds each call itself, from
            its turn on, and a call that waits for its turn must not count as an unanswered one.
        lasting: for who runs for long: tell each time that it goes silent, and when it answers again, and never
            leave it alone for longer than the first time.

    Attributes:
        unserved: how many calls were answered as if nothing were known.
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
        self._lasting = lasting
        self._told = False
        self._deadline = deadline
        self._bounds_itself = backing_server(index) is not None
        self._observer = observer
        self._clock = clock
        self._breaker = Breaker(OPEN_SECONDS, factor=1.0 if lasting else 2.0)
        self._since: float | None = None
        self._waits: dict[asyncio.Timeout, float] = {}  # those who insist, and their patience
        self._cause: str | None = None
        self.unserved = 0

    @property
    def state(self) -> Literal["ok", "degraded"]:
        """Whether every call was served so far."""
        return "ok" if self._cause is None else "degraded"

    async def add_source(self, layer: Digest, source: Located, *, must_mount: bool = False) -> None:
        """Add it, if the index serves."""
        await self._try(lambda: self._index.add_source(layer, source, must_mount=must_mount), None)

    async def is_mountable(self, layer: Digest, dest: Located) -> bool:
        """Answer False if the index does not serve."""
        return await self._try(lambda: self._index.is_mountable(layer, dest), otherwise=False)

    async def must_mount(self, layer: Digest) -> bool:
        """Answer False if the index does not serve."""
        return await self._try(lambda: self._index.must_mount(layer), otherwise=False)

    async def sources(self, layer: Digest, dest: Located) -> tuple[Repository, ...]:
        """Answer none if the index does not serve."""
        return await self._try(lambda: self._index.sources(layer, dest), ())

    async def look_up(self, layers: Iterable[Digest], dest: Located) -> Knowledge:
        """Answer with nothing known if the index does not serve."""
        return await self._try(lambda: self._index.look_up(layers, dest), Knowledge())

    async def record(self, sightings: Iterable[Sighting]) -> None:
        """Record it, if the index serves."""
        await self._try(lambda: self._index.record(sightings), None)

    async def forget(self, layer: Digest, *sources: Located) -> None:
        """Forget it, if the index serves."""
        await self._try(lambda: self._index.forget(layer, *sources), None)

    async def clear_must_mount(self, layer: Digest) -> None:
        """Lift it, if the index serves."""
        await self._try(lambda: self._index.clear_must_mount(layer), None)

    async def locations(self, layer: Digest) -> tuple[Repository, ...]:
        """Answer none if the index does not serve."""
        return await self._try(lambda: self._index.locations(layer), ())

    async def record_traits(self, registry: str, traits: RegistryTraits) -> None:
        """Record them, if the index serves."""
        await self._try(lambda: self._index.record_traits(registry, traits), None)

    def server(self) -> BackingServer | None:
        """See `ServerBacked`: that of the index below."""
        return backing_server(self._index)

    async def aclose(self) -> None:
        """Close the index below, whatever the breaker says."""
        try:
            await self._index.aclose()
        except IndexFailedError as error:
            self._degrade(error)

    async def call_patiently(
        self,
        call: Callable[[], Awaitable[T]],
        otherwise: T,
        *,
        seconds: float,
        pause: Callable[[], float],
        least: float = 0.0,
    ) -> T:
        """Ask the index's server something else, behind the same breaker, and more patiently.

        Args:
            call: asks it; it may be carried out more than once.
            otherwise: what to return if it does not serve.
            seconds: how long a server is asked again before it counts as gone. It counts from the first call
                that it left without an answer, whosever that was: a silence is borne once.
            pause: seconds from one time to the next.
            least: seconds for which it is asked in any case, also while the breaker is open.
        """
        if self._breaker.failed and not least:
            return await self._try(call, otherwise)
        trouble: CrossmountError | None = None
        while (left := max(least, self._left(seconds))) > 0:
            began, least = self._clock(), 0.0
            wait = asyncio.timeout(self._patience(left))
            try:
                async with wait:
                    self._waits[wait] = seconds
                    answer = await call()
            except TimeoutError:
                trouble = _too_late()
            except (IndexUnavailableError, StartingError) as error:
                trouble = error
            except (IndexFailedError, MissingExtraError) as error:
                self._answered()
                self._degrade(error)
                self.unserved += 1
                return otherwise
            else:
                self._answered()
                return answer
            finally:
                self._waits.pop(wait, None)
            self._missed(began)
            await asyncio.sleep(max(0.0, min(pause(), self._left(seconds))))
        if trouble is not None:
            self._leave_alone(trouble)
        self.unserved += 1
        return otherwise

    @property
    def unguarded(self) -> MountIndex:
        """The index that is guarded."""
        return self._index

    def report(self, error: IndexFailedError) -> None:
        """Take in that something on the index's server was refused."""
        self._degrade(error)

    async def call(self, call: Callable[[], Awaitable[T]]) -> T:
        """Ask the index something behind the same breaker, for who can wait: what fails is raised.

        Raises:
            IndexFailedError: it did not serve; while it is left alone, at once.
            MissingExtraError: there is no server to be started.
        """
        return await self._ask(call, probe=self._deadline)

    @property
    def breaker_open(self) -> bool:
        """Whether the index gave no answer, and is not asked for now."""
        return self._breaker.is_open(self._clock())

    async def _try(self, call: Callable[[], Awaitable[T]], otherwise: T) -> T:
        if not self.breaker_open:
            try:
                return await self._ask(call, probe=PROBE_SECONDS)
            except (IndexFailedError, MissingExtraError) as error:
                self._degrade(error)
        self.unserved += 1
        return otherwise

    async def _ask(self, call: Callable[[], Awaitable[T]], *, probe: float | None) -> T:
        """Ask once, and let the breaker know; the call that probes a silent index may take `probe` seconds."""
        now = self._clock()
        if self._breaker.is_open(now):
            raise IndexUnavailableError(self._cause or "the index is left alone")
        deadline = None if self._bounds_itself else self._deadline
        if self._breaker.failed:  # this call is the probe: the calls beside it do not wait
            self._breaker.probe(now)
            deadline = None if self._deadline is None or probe is None else min(self._deadline, probe)
        try:
            async with nullcontext() if deadline is None else asyncio.timeout(deadline):
                answer = await call()
        except TimeoutError:
            self._missed(now)
            self._leave_alone(error := _too_late())
            raise error from None
        except (IndexUnavailableError, MissingExtraError) as error:  # no answer; or no server to be started
            self._missed(now)
            self._leave_alone(error)
            raise
        except StartingError as error:
            self._missed(now)
            self._degrade(error)
            raise
        except IndexFailedError:
            self._answered()
            raise
        self._answered()
        return answer

    def _missed(self, began: float) -> None:
        """Take in that a call which began then was left without an answer."""
        self._since = began if self._since is None else min(self._since, began)
        for wait, seconds in self._waits.items():
            ends = asyncio.get_running_loop().time() + self._left(seconds)
            if not wait.expired() and (wait.when() is None or ends < (wait.when() or 0.0)):
                wait.reschedule(ends)

    def _patience(self, left: float) -> float | None:
        """Return for how many seconds a patient call may wait; None as long as no call was left unanswered."""
        if self._bounds_itself and self._since is None:
            return None
        return left if self._deadline is None else min(left, self._deadline)

    def _left(self, seconds: float) -> float:
        """Return what is left of a patience of so many seconds."""
        now = self._clock()
        return (now if self._since is None else self._since) + seconds - now

    def _leave_alone(self, error: CrossmountError) -> None:
        """Open the breaker."""
        self._breaker.fail(self._clock())
        self._degrade(error)

    def _answered(self) -> None:
        """Close the breaker, if this call was the probe or a call from before it opened came through."""
        self._since, was_silent = None, self._breaker.failed
        self._breaker.succeed()
        if was_silent and self._lasting and self._told:
            self._told = False
            self._observer(events.IndexRestored())

    def _degrade(self, error: CrossmountError) -> None:
        """Say it once, whatever else fails."""
        self._cause = str(error)
        if not self._told:
            self._told = True
            _log.debug("going on without the index: %s", self._cause)
            self._observer(events.IndexDegraded(cause=self._cause))


def _too_late() -> IndexUnavailableError:
    return IndexUnavailableError("the index does not answer in time")
