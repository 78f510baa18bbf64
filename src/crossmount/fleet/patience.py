"""How long a waiter waits, by its own clock and what it has seen itself: nothing in a lease can stretch it."""

from dataclasses import dataclass

LEASE_SECONDS = 10.0
"""A lease's life: how long after a holder's death the next one takes over."""

HEARTBEAT_SECONDS = 3.0
"""How often a holder renews: two heartbeats may be lost."""

SMALL = 1024 * 1024
"""Layers under this size, in bytes, are not worth a lease; tests/bench/wait_pays.py measures it."""


_REMEMBERED = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """When to wait, and how long at most.

    Attributes:
        limit: the longest wait in seconds, whatever the layer's size; 0 never waits.
        small: layers under this size in bytes are uploaded at once.
        least: seconds; below that a dead holder's lease could not run out while one waits for it, and a link that
            is full of other uploads would make all who wait upload too.
        rate: bytes a second that an upload is thought to make while none was seen.
        share: how many times longer than alone an upload may take: its holder has others beside it.
    """

    limit: float = 600.0
    small: int = SMALL
    least: float = 6 * LEASE_SECONDS
    rate: float = 1024 * 1024
    share: float = 4.0

    def waits_for(self, size: int) -> bool:
        """Tell whether a layer of `size` bytes is worth waiting for."""
        return self.limit > 0 and size >= self.small

    def seconds(self, size: int, rate: float | None) -> float:
        """Return how long to wait for `size` bytes, when `rate` bytes a second were seen (None: not yet)."""
        return min(self.limit, max(self.least, self.share * size / (rate or self.rate)))


class RateMeter:
    """The rate that this process's uploads make, each by itself.

    Small ones are left out: they end in a socket's buffer, and tell nothing of the link. What was seen long ago
    counts less and less.
    """

    def __init__(self, *, counts: int = SMALL) -> None:
        self._counts = counts
        self._bytes = 0.0
        self._seconds = 0.0

    def add(self, size: int, seconds: float) -> None:
        """Take in an upload of `size` bytes that the registry confirmed after `seconds`."""
        if size >= self._counts and seconds > 0:
            self._bytes += size
            self._seconds += seconds
            if self._seconds > _REMEMBERED:
                self._bytes, self._seconds = self._bytes / 2, self._seconds / 2

    @property
    def rate(self) -> float | None:
        """Bytes a second, None while nothing was seen."""
        return self._bytes / self._seconds if self._seconds else None
