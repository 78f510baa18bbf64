"""How often the index knew a layer that a pusher asked for: gathered here, told along with what is recorded."""

from collections import deque
from collections.abc import Collection
from datetime import UTC, datetime

from crossmount.index.protocol import LayerKnowledge

STATS_SECONDS = 14 * 24 * 3600
"""For how long a day's numbers are kept."""

_LOOK_UPS_MAX = 1000


class HitCounter:
    """Counts of look-ups that no server was told of yet; without a lock, which a fork could leave locked.

    A look-up must not write: so it is counted here and told with the next `record`, as one command more. Who only
    looks and never records is not counted; past a bound the oldest look-ups are dropped.
    """

    def __init__(self) -> None:
        self._waiting: deque[tuple[int, int]] = deque(maxlen=_LOOK_UPS_MAX)

    def add(self, layers: Collection[LayerKnowledge]) -> None:
        """Count a look-up; a layer is known if it is there already, or can be mounted."""
        if layers:
            self._waiting.append((len(layers), sum(1 for known in layers if known.in_dest or known.sources)))

    def take(self) -> tuple[int, int]:
        """Return how many layers were asked for since the last time, and how many of them were known."""
        asked = known = 0
        while self._waiting:
            try:
                more = self._waiting.popleft()
            except IndexError:  # another thread was faster
                break
            asked, known = asked + more[0], known + more[1]
        return asked, known


def day(now: float) -> str:
    """Return the day of epoch seconds, in UTC, as a key names it."""
    return datetime.fromtimestamp(now, UTC).date().isoformat()


def days(now: float) -> list[str]:
    """Return the days whose numbers may still be kept, the newest first."""
    return [day(now - back) for back in range(0, STATS_SECONDS + 1, 24 * 3600)]
