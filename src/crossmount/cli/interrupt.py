"""What a signal leaves behind."""

import signal


class Interrupted(Exception):  # noqa: N818 not an error: somebody wanted it to end
    """A signal ended the work, and everything was put away.

    Attributes:
        status: the exit status, 128 + the signal's number.
    """

    def __init__(self, number: int = signal.SIGINT, words: str = "") -> None:
        super().__init__(
            "interrupted" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}", words
        )
        self.number = number
        self.status = 128 + number

    def __str__(self) -> str:
        return ": ".join(filter(None, self.args))

    def saying(self, words: str) -> "Interrupted":
        """Return this with what became of the work."""
        return Interrupted(self.number, words)
