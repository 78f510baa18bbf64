"""How long a waiter waits: from its own clock and measurements, so that no text in a lease can extend a wait."""

from dataclasses import dataclass

LEASE_SECONDS = 10.0
"""Seconds until a lease expires: a waiter takes over so long after its holder died."""

HEARTBEAT_SECONDS = 3.0
"""Seconds between renewals of a lease: two renewals may fail."""

SMALL = 1024 * 1024
"""Layers under this size in bytes take no lease: tests/bench/wait_pays.py measures from which size a wait pays."""

_REMEMBERED_SECONDS = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """When to wait for another's upload, and how long.

    Attributes:
        limit: the longest wait in seconds, whatever the layer's size; 0 never waits.
        small: layers under this size in bytes are uploaded at once.
        least: the least patience in seconds. With less, the lease of a dead holder could not expire during the
            wait, and on a busy connection all waiters would lose patience and upload too.
        rate: assumed bytes a second of an upload while none was measured.
        share: how many times longer an upload may take than alone, since its holder uploads other layers too.
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
        """Return how long to wait for `size` bytes at a measured `rate` in bytes a second (None: not measured)."""
        return min(self.limit, max(self.least, self.share * size / (rate or self.rate)))


class RateMeter:
    """Measures the mean rate of single uploads of this process.

    Small uploads are ignored: they fit in a socket's buffer, so their time is not the connection's. Older uploads
    count less.
    """

    def __init__(self, *, min_size: int = SMALL) -> None:
        self._min_size = min_size
        self._bytes = 0.0
        self._seconds = 0.0

    def add(self, size: int, seconds: float) -> None:
        """Add an upload of `size` bytes that the registry confirmed after `seconds`."""
        if size >= self._min_size and seconds > 0:
            self._bytes += size
            self._seconds += seconds
            if self._seconds > _REMEMBERED_SECONDS:
                self._bytes, self._seconds = self._bytes / 2, self._seconds / 2

    @property
    def rate(self) -> float | None:
        """Bytes a second; None without any upload so far."""
        return self._bytes / self._seconds if self._seconds else None
