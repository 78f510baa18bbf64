"""The repositories that a caller was seen to read or push, or seen refused: remembered for a while."""

import time
from collections import OrderedDict
from collections.abc import Callable

READABLE_SECONDS = 3600.0
REFUSED_SECONDS = 60.0
_NAMES_MAX = 4096


class RecentNames:
    """Names of repositories, each remembered for some seconds; bounded.

    Args:
        seconds: how long a name is remembered.
        clock: seconds, from any start.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._until: OrderedDict[str, float] = OrderedDict()

    def add(self, name: str) -> None:
        """Remember a name."""
        self._until[name] = self._clock() + self._seconds
        self._until.move_to_end(name)
        if len(self._until) > _NAMES_MAX:
            self._until.popitem(last=False)

    def has(self, name: str) -> bool:
        """Return whether a name is remembered."""
        return self._until.get(name, 0.0) > self._clock()
