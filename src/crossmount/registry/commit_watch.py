"""Notes when a request's last byte was sent, and reports an answer that is slow to come."""

import asyncio
from collections.abc import Callable
from typing import Self

REPORT_SECONDS = 3.0
"""The seconds after the last byte until it is reported that the registry is storing the blob."""

POLL_FIRST = 0.25
POLL_MAX = 10.0


class CommitWatch:
    """Watches one request; its `note_sent` is the request's `on_sent`.

    Args:
        clock: seconds, from any start.
        report: called once the answer is slow to come.
    """

    def __init__(self, *, clock: Callable[[], float], report: Callable[[], None]) -> None:
        self._clock = clock
        self._report = report
        self._sent: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        """Report nothing any more."""
        if self._timer is not None:
            self._timer.cancel()

    def note_sent(self) -> None:
        """Record that the last byte was sent; a request that is sent again counts anew."""
        self.__exit__()
        self._sent = self._clock()
        self._timer = asyncio.get_running_loop().call_later(REPORT_SECONDS, self._report)

    @property
    def silence(self) -> float | None:
        """Seconds since the last byte, None before it."""
        return None if self._sent is None else self._clock() - self._sent


def poll_pause(number: int, left: float) -> float:
    """Return the seconds to wait before the registry is asked again.

    Args:
        number: how often it was asked.
        left: the seconds that are left.
    """
    return min(POLL_FIRST * 1.5 ** min(number, 20), POLL_MAX, left)
