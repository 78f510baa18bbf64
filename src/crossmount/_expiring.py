"""A bounded set whose members expire: what was denied, deleted, readable or admitted lately."""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

K = TypeVar("K")


class ExpiringSet(Generic[K]):
    """A set whose members expire.

    Args:
        seconds: the life of a member, from when it was last added.
        limit: the most members; beyond it the oldest is dropped.
        clock: seconds, from any start.
    """

    def __init__(self, seconds: float, *, limit: int = 65536, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._limit = limit
        self._clock = clock
        self._until: OrderedDict[K, float] = OrderedDict()  # in the order of time

    def add(self, member: K) -> None:
        """Add a member, or renew it."""
        self._until[member] = self._clock() + self._seconds
        self._until.move_to_end(member)
        if len(self._until) > self._limit:
            self._until.popitem(last=False)

    def remove(self, member: K) -> None:
        """Remove a member, if it is there."""
        self._until.pop(member, None)

    def __contains__(self, member: K) -> bool:
        """Return whether a member was added, and has not expired."""
        until = self._until.get(member)
        return until is not None and until > self._clock()

    def __iter__(self) -> Iterator[K]:
        """Yield the members that have not expired."""
        now = self._clock()
        return iter([member for member, until in self._until.items() if until > now])
