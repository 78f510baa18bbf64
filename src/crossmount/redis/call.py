"""The limits of calls to the servers: their deadline, their number, and a breaker for servers that do not answer.

Time in our own queue says nothing about the server, so the deadline begins when the call leaves the queue. The
queue for a silent server must still end soon, so an unanswered call fails the calls that wait behind it.
"""

import asyncio
import os
import threading
import time
from collections.abc import Sequence
from contextvars import ContextVar

from crossmount.errors import IndexUnavailableError

CALL_SECONDS = 1.5
"""How long a call may take after the queue, including its retry. Then a push continues without the index."""

CALLS_AT_FIRST = 8
"""How many calls may be in flight until the first one is answered."""


BREAKER_SECONDS = 5.0
"""How long a server that did not answer gets no commands; after a failed probe up to `PAUSE_MAX_SECONDS`."""

PAUSE_MAX_SECONDS = 8.0
"""The longest pause of a breaker: a server that answers again is used within 10 s, however long it was away."""


class Breaker:
    """The circuit breaker of a server: open after an unanswered call, until one call as a probe is answered.

    Args:
        seconds: how long it stays open after the first failure.
        factor: multiplies that time after each failed probe, up to `PAUSE_MAX_SECONDS`.

    Attributes:
        failed: whether the last call got no answer.
    """

    def __init__(self, seconds: float, *, factor: float = 2.0) -> None:
        self._first = self._seconds = seconds
        self._factor = factor
        self._until = float("-inf")
        self.failed = False

    def is_open(self, now: float) -> bool:
        """Return whether no calls should be made."""
        return now < self._until

    def probe(self, now: float) -> None:
        """Note that a probe starts: the breaker is open for all other calls until its result is known."""
        if self.failed and not self.is_open(now):
            self._seconds = max(self._first, min(self._seconds * self._factor, PAUSE_MAX_SECONDS))
            self._until = now + self._seconds

    def fail(self, now: float) -> None:
        """Open the breaker: a call got no answer."""
        self.failed = True
        self._until = now + self._seconds

    def succeed(self) -> None:
        """Close the breaker: a call was answered."""
        self.failed = False
        self._seconds, self._until = self._first, float("-inf")


class Call:
    """One call: when it was made, its deadline, and whether it is cancelled.

    Args:
        loop: the event loop whose task waits for the call; None if a thread waits.

    Attributes:
        made: when it was made (monotonic seconds).
        loop: the same.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self.made = time.monotonic()
        self.loop = loop
        self._until = float("inf")
        self._cancelled = False

    @property
    def cancelled(self) -> bool:
        """Whether it was cancelled. Its errors then say nothing about the servers."""
        return self._cancelled

    def begin(self) -> None:
        """Start the deadline."""
        self._until = time.monotonic() + CALL_SECONDS

    def renew(self) -> None:
        """Count the call as made now: what failed before says nothing about its next attempt."""
        self.made = time.monotonic()

    def cancel(self) -> None:
        """End the call at its next check. Any thread may call this."""
        self._cancelled = True

    @property
    def left(self) -> float:
        """Seconds until the deadline, never less than 0."""
        return 0.0 if self.cancelled else max(0.0, self._until - time.monotonic())

    def check(self) -> None:
        """Raise if the call must end.

        Raises:
            TimeoutError: the deadline has passed, or the call is cancelled.
        """
        if not self.left:
            raise TimeoutError("too late")


class JoinedCall(Call):
    """Several calls whose commands are sent together. It is cancelled once all of them are."""

    def __init__(self, calls: Sequence[Call]) -> None:
        super().__init__(calls[0].loop)
        self.made = max(call.made for call in calls)
        self._calls = calls

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits any more."""
        return all(call.cancelled for call in self._calls)


_current: ContextVar[Call | None] = ContextVar("crossmount_redis_call", default=None)


def current_call() -> Call | None:
    """Return the call that this thread runs; None outside of a call."""
    return _current.get()


class CallLimiter:
    """Limits how many calls of one client are in flight.

    The limit starts low and grows with each answered call, since each of the first calls opens a connection, and
    many TLS handshakes at once would delay each other. After an unanswered call it starts low again.

    Threads may share it, and so may a process and its forks.

    Args:
        most: how many calls may be in flight, each on a connection of its own.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._reset()

    def _reset(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._limit = min(CALLS_AT_FIRST, self._most)
        self._in_flight = 0
        self._unanswered: tuple[float, str] | None = None
        self._pid = os.getpid()  # last: until then the other threads of a child reset it too

    def admitted(self, call: Call) -> "_Admission":
        """Return a context: it waits until the limit admits the call, and its body has the call's deadline.

        Raises:
            IndexUnavailableError: from the `with` statement: another call got no answer while this one waited.
        """
        return _Admission(self, call)

    def enter(self, call: Call) -> None:
        """Wait until the limit admits the call; see `admitted`."""
        if self._pid != os.getpid():  # after a fork: the calls in flight are the parent's
            self._reset()
        with self._changed:
            while self._in_flight >= self._limit:
                self._check_unanswered(call)
                # with a time limit, since an interrupted waiter does not pass its wake-up on
                self._changed.wait(CALL_SECONDS)
            self._check_unanswered(call)
            self._in_flight += 1

    def leave(self, call: Call, error: BaseException | None) -> None:
        """Count the call as ended; see `admitted`."""
        with self._changed:
            self._in_flight -= 1
            if not isinstance(error, IndexUnavailableError):
                self._unanswered = None
                self._limit = min(self._limit + 1, self._most)
            elif not call.cancelled:
                self._unanswered = time.monotonic(), str(error)
                self._limit = min(CALLS_AT_FIRST, self._most)
                self._changed.notify_all()
            self._changed.notify(2)

    def _check_unanswered(self, call: Call) -> None:
        if self._unanswered is not None and self._unanswered[0] >= call.made:
            raise IndexUnavailableError(self._unanswered[1])


class _Admission:
    """The context of an admitted call. A generator would take twice as long, and every call has one."""

    __slots__ = ("_call", "_limiter", "_token")

    def __init__(self, limiter: CallLimiter, call: Call) -> None:
        self._limiter = limiter
        self._call = call

    def __enter__(self) -> None:
        self._limiter.enter(self._call)
        self._call.begin()
        self._token = _current.set(self._call)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        _current.reset(self._token)
        self._limiter.leave(self._call, error)
