"""When to leave alone a server that does not answer, and when to try it again. Pure: the time comes in."""


class Breaker:
    """Stays open for some seconds after a failure, and longer each time that a probe fails again.

    Args:
        seconds: how long it stays open after the first failure.
        factor: by how much longer it stays open each time that a probe fails; 1 is always as long.
    """

    def __init__(self, seconds: float, *, factor: float = 2.0) -> None:
        self._first = self._seconds = seconds
        self._factor = factor
        self._until = float("-inf")
        self.failed = False

    def is_open(self, now: float) -> bool:
        """Tell whether the server is to be left alone."""
        return now < self._until

    def probe(self, now: float) -> None:
        """Begin to find out whether a server that failed is back; beside this one call it stays left alone."""
        if self.failed and not self.is_open(now):
            self._seconds *= self._factor
            self._until = now + self._seconds

    def fail(self, now: float) -> None:
        """Open, since a call got no answer."""
        self.failed = True
        self._until = now + self._seconds

    def succeed(self) -> None:
        """Close, since a call was answered."""
        self.failed = False
        self._seconds, self._until = self._first, float("-inf")
