"""When a request is sent again, and after which wait, in tenacity's vocabulary: retry, stop, wait, before_sleep.

Retried are the statuses 408, 429, 500, 502, 503 and 504, and connections that fail or are cut. A wait is a random
share of a bound that doubles with each attempt. A Retry-After applies to every request to that host. A host that
has never answered gets fewer attempts, and a host that has answered gets the time that a restart takes.

`Retrier.run` sends one request. A transfer of many requests (an upload, a blob's bytes) has a `RetryBudget`, which
uses the same strategies and is reset by each progress. tenacity's own loop takes too long where it rarely counts.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from functools import partial

import httpx
from tenacity import (
    AsyncRetrying,
    BaseRetrying,
    RetryCallState,
    stop_after_attempt,
    wait_exponential,
)
from tenacity.stop import stop_base
from tenacity.wait import wait_base

from crossmount._parsing import http_date
from crossmount.errors import CrossmountError, RegistryError, RegistryRefusedError
from crossmount.events import Observer, Retrying, ignore, never_raising
from crossmount.registry.http.errors import describe, is_cut
from crossmount.registry.http.options import RetryPolicy
from crossmount.registry.http.tls import is_tls_error
from crossmount.registry.http.transport import Answer

RETRIED_STATUSES = frozenset({408, 429, 500, 502, 503, 504})
PAUSE_MAX = 3600.0
"""The most seconds that a host's Retry-After is remembered: an absurd one must not stop the process."""

STRANGER_ATTEMPTS = 5
"""The most attempts at a host that has never answered: it may be the wrong host."""

_SECONDS_DIGITS_MAX = 9

Clock = Callable[[], float]
Sleep = Callable[[float], Awaitable[None]]


def is_transient(outcome: Answer | BaseException) -> bool:
    """Return whether the same request may have another outcome next time."""
    if isinstance(outcome, Answer):
        return outcome.status in RETRIED_STATUSES
    return isinstance(outcome, httpx.HTTPError) and is_cut(outcome) and not is_tls_error(outcome)


def retry_after(answer: Answer, *, now: float) -> float | None:
    """Return the seconds that an answer's Retry-After asks for (RFC 9110, 10.2.3), or None.

    Args:
        answer: any answer.
        now: Unix time, for a date in an answer that has no Date header.
    """
    text = answer.headers.get("retry-after", "").strip()
    if text.isascii() and text.isdecimal():
        return float(text[:_SECONDS_DIGITS_MAX])
    until = http_date(text)
    if until is None:
        return None
    sent = http_date(answer.headers.get("date", ""))  # the server's own clock, if it sends one
    return max(0.0, until - (now if sent is None else sent))


class wait_as_asked(wait_base):  # noqa: N801 tenacity's strategies are written like this
    """Wait as long as a Retry-After asks for; otherwise a random share of a doubling bound.

    Args:
        policy: the bounds and the jitter.
        given: a retry object of tenacity that says how long to wait instead.
        rng: the source of the jitter.
        now: Unix time.
    """

    def __init__(
        self, policy: RetryPolicy, *, rng: random.Random, now: Clock, given: BaseRetrying | None = None
    ) -> None:
        self._policy = policy
        self._given = given
        self._bound = wait_exponential(multiplier=policy.wait_initial, max=policy.wait_max)
        self._rng = rng
        self._now = now

    def __call__(self, retry_state: RetryCallState) -> float:
        """Return the seconds to wait after the state's attempt."""
        outcome, jitter = _outcome(retry_state), self._policy.jitter
        asked = retry_after(outcome, now=self._now()) if isinstance(outcome, Answer) else None
        if asked is not None:
            return asked + self.spread()
        if self._given is not None:
            return float(self._given.wait(retry_state))
        bound = self._bound(retry_state)
        return self._rng.uniform((1.0 - jitter) * bound, bound)

    def spread(self) -> float:
        """Return the seconds to add to a pause, so that not all requests are sent when it ends."""
        return self._rng.uniform(0.0, self._policy.jitter * self._policy.wait_initial)


class stop_if(stop_base):  # noqa: N801 tenacity's strategies are written like this
    """Stop if a condition is true; tenacity's `|` and `&` take only strategies, no plain functions."""

    def __init__(self, condition: Callable[[RetryCallState], bool]) -> None:
        self._condition = condition

    def __call__(self, retry_state: RetryCallState) -> bool:
        """Return whether the condition is true."""
        return self._condition(retry_state)


class Retrier:
    """Sends requests until one succeeds, and observes the pauses that hosts ask for.

    Args:
        policy: the limits; or a retry object of tenacity, whose strategies `wait` and `stop` are used.
        observer: receives one event for each wait.
        clock: seconds, from any start.
        now: Unix time.
        rng: the source of the jitter.
        sleep: waits for a number of seconds.
    """

    def __init__(
        self,
        policy: RetryPolicy | BaseRetrying,
        *,
        observer: Observer = ignore,
        clock: Clock = time.monotonic,
        now: Clock = time.time,
        rng: random.Random | None = None,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        given = None if isinstance(policy, RetryPolicy) else policy
        limits = policy if isinstance(policy, RetryPolicy) else RetryPolicy()
        self.policy = limits
        self._given = given
        self.clock = clock
        self.sleep = sleep
        self.observer = never_raising(observer)
        self._now = now
        self._wait = wait_as_asked(limits, given=given, rng=rng or random.Random(), now=now)  # noqa: S311 jitter, not a secret
        self._pauses: dict[str, float] = {}
        self._known: set[str] = set()

    def retrying(self, method: str, host: str) -> AsyncRetrying:
        """Return tenacity's strategies for one request to a host; its time starts now.

        Args:
            method: the request's method, for the events.
            host: the host, whose history counts.
        """
        started = self.clock()

        def is_late(state: RetryCallState) -> bool:
            return self.clock() - started + state.upcoming_sleep > self.policy.timeout

        def is_no_restart(state: RetryCallState) -> bool:
            is_over = self.clock() - started >= self.policy.outage
            return is_over or host not in self._known or isinstance(_outcome(state), Answer)

        def is_stranger(state: RetryCallState) -> bool:
            return host not in self._known and not isinstance(_outcome(state), Answer)

        def report(state: RetryCallState) -> None:
            cause, attempt, wait = _cause_of(_outcome(state)), state.attempt_number, state.upcoming_sleep
            self.observer(Retrying(method=method, host=host, cause=cause, attempt=attempt, wait=wait))

        given = self._given
        return AsyncRetrying(
            wait=self._wait,
            stop=(
                stop_if(is_late)
                | (stop_after_attempt(self.policy.attempts) & stop_if(is_no_restart))
                | (stop_after_attempt(STRANGER_ATTEMPTS) & stop_if(is_stranger))
                if given is None
                else stop_if(lambda state: bool(given.stop(state)))
            ),
            before_sleep=report,
        )

    async def run(
        self, method: str, host: str, send: Callable[[], Awaitable[Answer]], *, alone: bool = False
    ) -> Answer:
        """Send a request until another attempt would not help; return the last answer or raise the last error.

        Args:
            method: the request's method, for the events.
            host: the host that it is sent to.
            send: sends it once; it must be repeatable.
            alone: whether no other request observes a pause that its answer asks for.

        Raises:
            httpx.HTTPError: the last error that `send` raised.
            RegistryRefusedError: before anything was sent: the host asked for a pause that outlasts the timeout.
        """
        until = self.clock() + self.policy.timeout
        failures = _Failures(self.retrying(method, host), sleep=self.sleep)
        while True:
            try:
                answer = await self._attempt(host, send, until, alone=alone)
            except httpx.HTTPError as error:
                if not is_transient(error) or await failures.is_last(error):
                    raise
            else:
                if not is_transient(answer) or await failures.is_last(answer):
                    return answer

    async def run_once(self, host: str, send: Callable[[], Awaitable[Answer]], *, alone: bool = False) -> Answer:
        """Send a request that must not be sent again as it is; the host's pauses are observed as in `run`.

        Raises:
            httpx.HTTPError: the error that `send` raised.
            RegistryRefusedError: the host asked for a pause that outlasts the timeout.
        """
        return await self._attempt(host, send, self.clock() + self.policy.timeout, alone=alone)

    async def _attempt(
        self, host: str, send: Callable[[], Awaitable[Answer]], until: float, *, alone: bool
    ) -> Answer:
        while (left := self._pauses.get(host, float("-inf")) - self.clock()) > 0:
            if self.clock() + left > until:
                raise RegistryRefusedError(f"{host}: it asked for a pause of {left:.0f} s: try later", status=429)
            await self.sleep(left + self._wait.spread())
        answer = await send()
        self._known.add(host)
        if not alone:
            self.note_pause(host, answer)
        return answer

    def note_pause(self, host: str, answer: Answer) -> None:
        """Record the pause that a host's answer asks all clients for."""
        asked = retry_after(answer, now=self._now()) if answer.status in {429, 503} else None
        if asked is not None:
            self._pauses[host] = max(self._pauses.get(host, 0.0), self.clock() + min(asked, PAUSE_MAX))


class _Failures:
    """The failures in a row of one request, or of one transfer; the time of its strategies has started."""

    def __init__(self, retrying: AsyncRetrying, *, sleep: Sleep) -> None:
        self._retrying = retrying
        self._sleep = sleep
        self._state = RetryCallState(retrying, None, (), {})

    async def is_last(self, outcome: Answer | BaseException) -> bool:
        """Wait before the next attempt and return False, or return True at once if there must be none."""
        retrying, state = self._retrying, self._state
        if state.outcome is not None:
            state.prepare_for_next_attempt()
        if isinstance(outcome, BaseException):
            state.set_exception((type(outcome), outcome, outcome.__traceback__))
        else:
            state.set_result(outcome)
        state.upcoming_sleep = retrying.wait(state)
        if retrying.stop(state):
            return True
        assert retrying.before_sleep is not None  # noqa: S101 `Retrier.retrying` sets it
        retrying.before_sleep(state)
        await self._sleep(state.upcoming_sleep)
        return False


class RetryBudget:
    """The failures in a row that one transfer may have: as many as one request; reset on progress.

    Args:
        retrier: the strategies, the clock and the waits.
        method: the requests' method, for the events.
        host: the host that they are sent to.
    """

    def __init__(self, retrier: Retrier, *, method: str, host: str) -> None:
        self.retrier = retrier
        self._start = partial(retrier.retrying, method, host)
        self._furthest = 0
        self._failures: _Failures | None = None

    def note_progress(self, offset: int) -> None:
        """Record how many bytes are transferred; if that is more than ever before, the failures are forgotten."""
        if offset > self._furthest:
            self._furthest = offset
            self._failures = None

    async def spend(self, error: RegistryError, answer: Answer | None = None) -> None:
        """Wait after a failure, before the next attempt.

        Args:
            error: the failure; it is raised if there were too many.
            answer: the answer that failed, if there was one; its Retry-After counts.

        Raises:
            RegistryError: `error`.
        """
        if self._failures is None:
            self._failures = _Failures(self._start(), sleep=self.retrier.sleep)
        if await self._failures.is_last(error if answer is None else answer):
            raise error


def _outcome(state: RetryCallState) -> Answer | BaseException:
    """Return the answer or the exception of an attempt."""
    assert state.outcome is not None  # noqa: S101 tenacity calls its strategies only after an attempt
    error = state.outcome.exception()
    return state.outcome.result() if error is None else error


def _cause_of(outcome: Answer | BaseException) -> str:
    """Return in a few words why a request is sent again."""
    if isinstance(outcome, Answer):
        return f"{outcome.status} {httpx.codes.get_reason_phrase(outcome.status)}".strip()
    return str(outcome) if isinstance(outcome, CrossmountError) else describe(outcome)
