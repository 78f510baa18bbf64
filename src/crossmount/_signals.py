"""Whether a signal is the first, the first one delivered twice, or another one. No I/O.

GNU `timeout` signals its command and then the whole process group, so the command gets each signal twice.
systemd can send SIGHUP right after SIGTERM. Only a signal that comes later means that somebody is impatient.
"""

from collections.abc import Callable
from typing import Literal

from crossmount._dataclass import dataclass

TWICE_SECONDS = 0.5
"""A signal that comes so soon after the first one belongs to it."""


@dataclass(slots=True)
class ReceivedSignals:
    """The signals that a process received.

    Attributes:
        clock: returns the seconds on a clock that never goes back.
        first: the number of the first signal; None before it.
    """

    clock: Callable[[], float]
    first: int | None = None
    _since: float = 0.0

    def add(self, number: int) -> Literal["first", "again", "impatient"]:
        """Count a signal, and return what it means."""
        now = self.clock()
        if self.first is None:
            self.first, self._since = number, now
            return "first"
        return "again" if now - self._since < TWICE_SECONDS else "impatient"
