"""What all users of an index share, beside its layers: the names of registries, the home registry, the clock.

A look-up reads this along from time to time, and a write of a process that has not looked anything up.

The home registry is the one that was recorded first in a namespace. Most layers are on one registry alone, most
of those on the same one: such a layer needs no hash of flags. A layer without flags is on the home registry, or
nowhere. A wrong home registry costs memory, and the knowledge that layers are on other registries too.
"""

from collections.abc import Callable, Sequence
from typing import Any

from crossmount.index.aliases import RegistryNames
from crossmount.index.decode import as_map, registry_name
from crossmount.index.keys import Keys
from crossmount.redis.replies import Command

TIME: Command = ("TIME",)


class SharedFacts:
    """What the users of an index share, as far as this process has read it.

    Args:
        names: the names of registries.
        clock: epoch seconds, by this machine.

    Attributes:
        names: the same.
        home: the home registry; None if there is none yet, or it was not read.
    """

    def __init__(self, names: RegistryNames, clock: Callable[[], float]) -> None:
        self.names = names
        self.home: str | None = None
        self._clock = clock
        self._ahead = 0.0  # how far the server's clock is ahead of ours

    def now(self) -> float:
        """Return the epoch seconds by the server's clock, as far as it is known: clients' clocks may be wrong."""
        return self._clock() + self._ahead

    @property
    def is_due(self) -> bool:
        """Whether it should be read again."""
        return self.names.is_due(self._clock())

    def commands(self, keys: Keys) -> list[Command]:
        """Return the commands that read it."""
        return [
            ("HGETALL", keys.same_registry()),
            ("HGET", keys.registries(), "home"),
            TIME,
        ]

    def learn(self, replies: Sequence[Any]) -> None:
        """Take in the replies to `commands`. They are untrusted."""
        names, home, time = replies
        now = self._clock()
        self.names.learn(as_map(names), now)
        self.home = registry_name(home)
        self._ahead = seconds_of(time, now) - now


def seconds_of(time: Any, otherwise: float) -> float:
    """Return the epoch seconds of a reply to TIME."""
    match time:
        case [int(seconds), int(micro)] | (int(seconds), int(micro)):
            return seconds + micro / 1e6
    return otherwise
