"""Calls to an index, or to one side of it, behind a breaker.

After an unanswered call the breaker opens: for some seconds all calls return at once, without the index. Then one
call is the probe; an answer closes the breaker.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from typing import Any, TypeVar

from crossmount._tasks import collect
from crossmount.errors import CrossmountError, IndexFailedError, IndexUnavailableError, MissingExtraError
from crossmount.index.outage import Health
from crossmount.redis.call import Breaker
from crossmount.redis.replies import StartingError

OPEN_SECONDS = 5.0
"""How long the breaker stays open after an unanswered call; after a failed probe up to 8 s."""

PROBE_SECONDS = 0.25
"""How long a push waits for a probe. The probe itself goes on, since its answer ends the outage."""

T = TypeVar("T")


class GuardedCalls:
    """Calls behind one breaker.

    Args:
        health: reports failures, and their end.
        clock: seconds, for the breaker.
        deadline: seconds that a call may take; None where nothing can interrupt it (no event loop).
        limits_itself: the index limits each call itself; the deadline is for probes only.
        lasting: do not double the time that the breaker is open after a failed probe.

    Attributes:
        health: the same.
        unserved: how many calls returned as if the index were empty.
    """

    def __init__(
        self,
        health: Health,
        *,
        clock: Callable[[], float],
        deadline: float | None,
        limits_itself: bool,
        lasting: bool,
    ) -> None:
        self.health = health
        self.unserved = 0
        self._clock = clock
        self._deadline = deadline
        self._has_own_deadline = limits_itself
        self._breaker = Breaker(OPEN_SECONDS, factor=1.0 if lasting else 2.0)
        self._since: float | None = None  # when the first unanswered call of the outage began
        self._waits: dict[asyncio.Timeout, float] = {}  # running patient calls, with the `seconds` of each
        self._probe: asyncio.Future[Any] | None = None  # the last one; its caller may have gone on without it

    def cancel_probe(self) -> None:
        """End a probe that is in progress."""
        if self._probe is not None:
            self._probe.cancel()

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
            return await self.attempt(call, otherwise)
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
                self.health.failed(error)
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

    async def attempt(self, call: Callable[[], Awaitable[T]], otherwise: T) -> T:
        """Make a call; return `otherwise` if it fails, or while the breaker is open."""
        if not self.breaker_open:
            try:
                return await self._call_once(call, probe=PROBE_SECONDS)
            except (IndexFailedError, MissingExtraError) as error:
                self.health.failed(error)
        self.unserved += 1
        return otherwise

    async def _call_once(self, call: Callable[[], Awaitable[T]], *, probe: float | None) -> T:
        """Make one call and update the breaker; the caller waits for a probe for `probe` seconds at most."""
        now = self._clock()
        if self._breaker.is_open(now):
            raise IndexUnavailableError(self.health.cause or "the index did not answer, and is not asked for now")
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
            self.health.failed(error)
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
        self.health.failed(error)

    def _note_answered(self, *, refused: bool = False) -> None:
        """Close the breaker: the probe, or a call from before it opened, was answered."""
        self._since, was_failing = None, self._breaker.failed
        self._breaker.succeed()
        (self.health.answered if refused else self.health.served)(again=was_failing)


def _too_late() -> IndexUnavailableError:
    return IndexUnavailableError("the index does not answer in time")
