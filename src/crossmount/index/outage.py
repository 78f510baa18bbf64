"""The log of an index's outages: one warning when it stops serving, one note when it serves again.

Each push guards the index anew, so what was logged is kept by index and not by guard: a service that pushes all
day logs one line for an outage, and not one for each push.
"""

import logging
import threading
from collections.abc import Callable
from typing import Protocol, runtime_checkable
from weakref import WeakKeyDictionary

from crossmount import events
from crossmount.errors import CrossmountError, IndexFailedError, IndexUnavailableError

QUIET_SECONDS = 60.0
"""An index that refuses some calls answers others in between: it serves again after so long without a refusal."""

_log = logging.getLogger("crossmount.index")


@runtime_checkable
class Adapted(Protocol):
    """An index that makes another one look like a full one, or like one of the other flavour."""

    @property
    def adapted(self) -> object:
        """The other one."""
        ...


class OutageLog:
    """What was logged about one index. Many guards, in many threads, share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ends_after: float | None = None  # None while the index serves

    def failed(self, error: CrossmountError, now: float) -> None:
        """Log the first failure of an outage.

        Args:
            error: its message has no secrets.
            now: seconds, from any start.
        """
        answered = isinstance(error, IndexFailedError) and not isinstance(error, IndexUnavailableError)
        with self._lock:
            is_new = self._ends_after is None
            self._ends_after = now + QUIET_SECONDS if answered else now
        if is_new:
            _log.warning("going on without the index: %s", error)

    def served(self, now: float) -> None:
        """Log the end of an outage."""
        if not self._is_over(now):  # nearly always; no lock is needed to see it
            return
        with self._lock:
            is_mine = self._is_over(now)
            self._ends_after = None if is_mine else self._ends_after
        if is_mine:
            _log.info("the index serves again")

    def _is_over(self, now: float) -> bool:
        return self._ends_after is not None and now >= self._ends_after


_logs: "WeakKeyDictionary[object, OutageLog]" = WeakKeyDictionary()
_logs_lock = threading.Lock()


def outage_log(index: object) -> OutageLog:
    """Return the log of an index: the same one for all its guards, as long as the index lives."""
    while isinstance(index, Adapted):
        index = index.adapted
    try:
        with _logs_lock:
            return _logs.setdefault(index, OutageLog())
    except TypeError:  # a user's own index that cannot be a key
        return OutageLog()


class Health:
    """Whether a guarded index serves, for the guard's observer, its report and the log.

    Args:
        index: the index.
        observer: receives an `IndexDegraded` when the index first fails.
        lasting: report each outage and its end, not only the first failure.
        clock: seconds, from any start.
        beside: the health of the index's other side, which has other servers; the observer hears once of both.

    Attributes:
        cause: why the last call failed that did; None as long as none did.
    """

    def __init__(
        self,
        index: object,
        observer: events.Observer,
        *,
        lasting: bool,
        clock: Callable[[], float],
        beside: "Health | None" = None,
    ) -> None:
        self.cause: str | None = None
        self._log = outage_log(index)
        self._observer = events.never_raising(observer)
        self._lasting = lasting
        self._clock = clock
        self._reported = False
        self._sides: list[Health] = [] if beside is None else beside._sides  # noqa: SLF001 its own class
        self._sides.append(self)

    @property
    def _is_reported(self) -> bool:
        return any(side._reported for side in self._sides)  # noqa: SLF001 its own class

    def failed(self, error: CrossmountError) -> None:
        """Report the first failure."""
        self.cause = str(error)
        self._log.failed(error, self._clock())
        if not self._is_reported:
            self._observer(events.IndexDegraded(cause=self.cause))
        self._reported = True

    def served(self, *, again: bool) -> None:
        """Report the end of an outage.

        Args:
            again: whether this is the first answer after an unanswered call.
        """
        self._log.served(self._clock())
        self.answered(again=again)

    def answered(self, *, again: bool) -> None:
        """Report an answer, which may be a refusal, to the observer alone."""
        if again and self._lasting and self._reported:
            self._reported = False
            if not self._is_reported:
                self._observer(events.IndexRestored())
