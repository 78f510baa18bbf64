"""The pauses between two calls of the waiters of one process."""

TICK_SECONDS = (0.1, 0.25)
"""The shortest and the longest pause between two polls."""

SAFETY_SECONDS = (2.0, 3.0)
"""The same while messages wake the waiters: messages may be lost, and holders of 0.1.0 send none."""

SHOW_SECONDS = 1.0
"""Seconds between two updates of the waiters that `crossmount fleet` lists."""

_FIRST_SECONDS = 0.02
"""The pause after the first message that brought nothing new."""


class NewsBackoff:
    """The pause between two calls that messages cause. It grows while they bring nothing new. No I/O.

    A message is sent when an upload ends, so the answer to the call after it differs from the one before. Only a
    message that nobody had a reason to send brings nothing new: a flood of them must not keep the waiters calling.
    The longest pause is that of a waiter that hears no messages.
    """

    def __init__(self) -> None:
        self._pause = 0.0
        self._next = float("-inf")

    def seconds(self, now: float) -> float:
        """Return in how many seconds a message that has arrived may cause a call."""
        return max(0.0, self._next - now)

    def note_call(self, now: float, *, in_vain: bool) -> None:
        """Note a call that messages caused.

        Args:
            now: monotonic seconds.
            in_vain: whether its answers were the same as before.
        """
        self._pause = min(max(2 * self._pause, _FIRST_SECONDS), TICK_SECONDS[1]) if in_vain else 0.0
        self._next = now + self._pause
