"""Whether an upload that others wait for makes progress: it sends bytes at a useful rate, or has sent all of them.

An uploader judges itself, and releases its lease when it is stalled: the next waiter takes its turn, and both
uploads continue. The lease contains how many bytes were sent, so that waiters of other processes can judge too.
"""

from collections.abc import Callable

USEFUL_RATE = 32 * 1024
"""Bytes a second below which nobody waits for an upload."""

PACED_SECONDS = 6.0
"""Seconds that an upload may be too slow if it is relayed at a client's pace."""

OWN_SECONDS = 30.0
"""The same for all other uploads, also those of other processes: the registry may ask for a pause."""


class Pace:
    """Judges an upload by the bytes that it has sent at one moment and the next. No I/O.

    Args:
        seconds: how long it may be too slow.
        rate: bytes a second that are enough.
    """

    def __init__(self, *, seconds: float, rate: float = USEFUL_RATE) -> None:
        self._seconds = seconds
        self._rate = rate
        self._since: float | None = None
        self._done = 0

    def check(self, done: int, size: int, now: float) -> bool:
        """Compare with the earlier checks, and return whether the upload is stalled.

        Args:
            done: bytes sent so far.
            size: all bytes; once they are sent, the upload is not stalled, however long the registry takes.
            now: monotonic seconds.
        """
        if self._since is None or done < self._done or done >= size:
            self._since, self._done = now, done
            return False
        elapsed = now - self._since
        if elapsed < self._seconds:
            return False
        if done - self._done < self._rate * elapsed:
            return True
        self._since, self._done = now, done
        return False


class UploadProgress:
    """The bytes of one upload that were sent, as its uploader counts them.

    Args:
        size: all bytes of the blob.
        seconds: how long it may be too slow.
        clock: monotonic seconds.

    Attributes:
        size: all bytes of the blob.
        sent: bytes sent so far.
    """

    def __init__(self, size: int, *, seconds: float, clock: Callable[[], float]) -> None:
        self.size = size
        self.sent = 0
        self._pace = Pace(seconds=seconds)
        self._clock = clock

    def start(self) -> None:
        """Count the time from now on."""
        self._pace.check(self.sent, self.size, self._clock())

    def reach(self, sent: int) -> None:
        """Note how many bytes were sent."""
        self.sent = sent

    def complete(self) -> None:
        """Note that the upload has succeeded."""
        self.sent = self.size

    def check_stalled(self) -> bool:
        """Compare with the earlier checks, and return whether the upload is stalled."""
        return self._pace.check(self.sent, self.size, self._clock())
