"""Counts how many of the layers that pushes looked up were known to the index."""

from collections import deque
from collections.abc import Collection
from datetime import UTC, datetime

from crossmount.index.protocol import LayerKnowledge

STATS_SECONDS = 14 * 24 * 3600
"""How long the counts of a day are stored."""

_LOOK_UPS_MAX = 1000


class HitCounter:
    """Counts of look-ups that are not on the server yet.

    A look-up must not write, so its count is sent with the next `record`, as an additional command. Look-ups of a
    client that never records are not counted, and of too many look-ups the oldest are dropped. There is no lock,
    since a fork could leave it locked.
    """

    def __init__(self) -> None:
        self._waiting: deque[tuple[int, int]] = deque(maxlen=_LOOK_UPS_MAX)

    def add(self, layers: Collection[LayerKnowledge]) -> None:
        """Count a look-up; a layer is known if dest has it, or if it can be mounted."""
        if layers:
            self._waiting.append((len(layers), sum(1 for known in layers if known.in_dest or known.sources)))

    def take(self) -> tuple[int, int]:
        """Return the number of layers looked up since the last call, and how many of them were known."""
        asked = known = 0
        while self._waiting:
            try:
                more = self._waiting.popleft()
            except IndexError:  # another thread was faster
                break
            asked, known = asked + more[0], known + more[1]
        return asked, known


def day(now: float) -> str:
    """Return the UTC date of epoch seconds, as in a key."""
    return datetime.fromtimestamp(now, UTC).date().isoformat()


def days(now: float) -> list[str]:
    """Return the days whose counts may still be stored, newest first."""
    return [day(now - back) for back in range(0, STATS_SECONDS + 1, 24 * 3600)]
