"""When a request is sent again, and after how long: pure rules, and tenacity to run them.

Worth it are 408, 429, 500, 502, 503 and 504, and connections that fail or are cut. Waits are full jitter under a
doubling bound. A Retry-After counts for everybody who talks to that host, up to a request's deadline. A host that
never answered is given up sooner than others, and one that did is given the time that a restart takes.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable

import httpx
from tenacity import AsyncRetrying, RetryCallState

from crossmount.errors import CrossmountError, RegistryRefusedError
from crossmount.events import Observer, Retrying, ignore
from crossmount.registry.http.dates import http_date
from crossmount.registry.http.options import RetryPolicy
from crossmount.registry.http.transport import Answer, describe, is_cut, is_distrust

RETRIED_STATUSES = frozenset({408, 429, 500, 502, 503, 504})
PAUSE_MAX = 3600.0
"""How long a host's Retry-After is remembered at most: nonsense must not last as long as the process."""

STRANGER_ATTEMPTS = 5
"""How often a host is asked at most that never answered: it may be the wrong one."""

_SECONDS_DIGITS_MAX = 9

Clock = Callable[[], float]
Sleep = Callable[[float], Awaitable[None]]


def is_passing(outcome: Answer | BaseException) -> bool:
    """Tell whether what a request came to may be otherwise next time."""
    if isinstance(outcome, Answer):
        return outcome.status in RETRIED_STATUSES
    return isinstance(outcome, httpx.HTTPError) and is_cut(outcome) and not is_distrust(outcome)


def backoff(attempt: int, policy: RetryPolicy, rng: random.Random) -> float:
    """Return the seconds to wait after attempt number `attempt`, which counts from 1: full jitter."""
    bound = min(policy.wait_max, policy.wait_initial * 2.0 ** min(attempt - 1, 32))
    return rng.uniform(0.0, bound)


def retry_after(answer: Answer, *, now: float) -> float | None:
    """Return the seconds that an answer's Retry-After asks for (RFC 9110, 10.2.3), or None.

    Args:
        answer: any.
        now: Unix time, for a date in an answer that has no Date of its own.
    """
    text = answer.headers.get("retry-after", "").strip()
    if text.isascii() and text.isdecimal():
        return float(text[:_SECONDS_DIGITS_MAX])
    until = http_date(text)
    if until is None:
        return None
    sent = http_date(answer.headers.get("date", ""))  # the server's own clock, if it says
    return max(0.0, until - (now if sent is None else sent))


def cause_of(outcome: Answer | BaseException) -> str:
    """Say in a few words why a request is sent again."""
    if isinstance(outcome, Answer):
        return f"{outcome.status} {httpx.codes.get_reason_phrase(outcome.status)}".strip()
    return str(outcome) if isinstance(outcome, CrossmountError) else describe(outcome)


class Retrier:
    """Sends requests until one comes through, and keeps the pauses that hosts asked for.

    Args:
        policy: when to give up.
        observer: told of each wait.
        clock: seconds, from any start.
        now: Unix time.
        rng: where jitter comes from.
        sleep: waits that many seconds.
    """

    def __init__(
        self,
        policy: RetryPolicy,
        *,
        observer: Observer = ignore,
        clock: Clock = time.monotonic,
        now: Clock = time.time,
        rng: random.Random | None = None,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self.policy = policy
        self.clock = clock
        self._observer = observer
        self._now = now
        self._rng = rng or random.Random()  # noqa: S311 jitter, not a secret
        self._sleep = sleep
        self._pauses: dict[str, float] = {}
        self._known: set[str] = set()

    async def run(self, method: str, host: str, send: Callable[[], Awaitable[Answer]]) -> Answer:
        """Send a request, again while it is worth it, and return the last answer or raise the last error.

        Args:
            method: the request's method, for those who watch.
            host: whom it is sent to; pauses are kept by it.
            send: sends it once; it must be able to do so again.

        Raises:
            httpx.HTTPError: whatever `send` raised last.
            RegistryRefusedError: the host asked for a pause past the deadline before anything was sent.
        """
        started = self.clock()

        async def attempt() -> Answer:
            return await self._attempt(host, send, until=started + self.policy.timeout)

        def spent(state: RetryCallState) -> bool:
            late = self.clock() - started + state.upcoming_sleep > self.policy.timeout
            return late or self.is_spent(host, _outcome(state), state.attempt_number, since=started)

        def tell(state: RetryCallState) -> None:
            self.tell(method, host, cause_of(_outcome(state)), state.attempt_number, state.upcoming_sleep)

        retrying = AsyncRetrying(
            retry=lambda state: is_passing(_outcome(state)),
            wait=lambda state: self.wait(_outcome(state), state.attempt_number),
            stop=spent,
            before_sleep=tell,
            retry_error_callback=lambda state: state.outcome.result() if state.outcome else None,
            sleep=self._sleep,
        )
        return await retrying(attempt)

    async def run_once(self, host: str, send: Callable[[], Awaitable[Answer]]) -> Answer:
        """Send a request that may not simply be sent again; `host`'s pauses count, as in `run`.

        Raises:
            httpx.HTTPError: whatever `send` raised.
            RegistryRefusedError: the host asked for a pause past the deadline.
        """
        return await self._attempt(host, send, until=self.clock() + self.policy.timeout)

    async def _attempt(self, host: str, send: Callable[[], Awaitable[Answer]], *, until: float) -> Answer:
        await self._respect_pause(host, until=until)
        return self.note_answer(host, await send())

    def is_spent(self, host: str, outcome: Answer | BaseException, attempts: int, *, since: float) -> bool:
        """Tell whether so many attempts, the last of which came to `outcome`, are all that are made.

        Args:
            host: whom it was sent to.
            outcome: what the last one came to.
            attempts: how many were made.
            since: when they began, on the clock.
        """
        most = self.policy.attempts
        if isinstance(outcome, Answer):
            return attempts >= most
        if host not in self._known:
            return attempts >= min(most, STRANGER_ATTEMPTS)
        return attempts >= most and self.clock() - since >= self.policy.outage

    def wait(self, outcome: Answer | BaseException, attempt: int) -> float:
        """Return the seconds to wait after `attempt` came to `outcome`."""
        asked = retry_after(outcome, now=self._now()) if isinstance(outcome, Answer) else None
        if asked is None:
            return backoff(attempt, self.policy, self._rng)
        return asked + self._rng.uniform(0.0, self.policy.wait_initial)  # not all waiters at once

    def note_answer(self, host: str, answer: Answer) -> Answer:
        """Remember that `host` answers, and a pause that it asks everybody for."""
        self._known.add(host)
        asked = retry_after(answer, now=self._now()) if answer.status in {429, 503} else None
        if asked is not None:
            self._pauses[host] = max(self._pauses.get(host, 0.0), self.clock() + min(asked, PAUSE_MAX))
        return answer

    async def _respect_pause(self, host: str, *, until: float) -> None:
        """Wait until `host` may be asked again.

        Raises:
            RegistryRefusedError: that is later than `until`, on the clock.
        """
        while (left := self._pauses.get(host, float("-inf")) - self.clock()) > 0:
            if self.clock() + left > until:
                raise RegistryRefusedError(f"{host}: it asked for a pause of {left:.0f} s: try later", status=429)
            await self._sleep(left + self._rng.uniform(0.0, self.policy.wait_initial))

    def tell(self, method: str, host: str, cause: str, attempt: int, wait: float) -> None:
        """Let the observer know of a wait."""
        self._observer(Retrying(method=method, host=host, cause=cause, attempt=attempt, wait=wait))

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await self._sleep(seconds)


def _outcome(state: RetryCallState) -> Answer | BaseException:
    """Return what an attempt came to: its answer, or its exception."""
    assert state.outcome is not None  # noqa: S101 tenacity asks only after an attempt
    error = state.outcome.exception()
    return state.outcome.result() if error is None else error
