"""Look-ups on a server: their commands, the meaning of the replies, their number, and shared facts. No I/O.

The shared facts are the names of registries, the home registry and the clock. A look-up reads them from time to
time, in the same round trip; so does a write of a process that has not looked anything up.

The home registry is the one that was recorded first in a namespace. Most layers are on one registry alone, most
of those on the same one: such a layer needs no hash of flags. A layer without flags is on the home registry, or
nowhere. A wrong home registry costs memory, and the knowledge that layers are on other registries too.
"""

import functools
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any

from crossmount._dataclass import dataclass
from crossmount.index.aliases import RegistryNames
from crossmount.index.decode import TRAITS, Decoder, as_map, denied_repositories, registry_name, traits_of, truth
from crossmount.index.exclusions import DENIALS_MAX, is_account
from crossmount.index.keys import Keys
from crossmount.index.protocol import Knowledge, LayerKnowledge, RegistryTraits
from crossmount.oci import Digest, Repository
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


_LOOK_UPS_MAX = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class LookUp:
    """A look-up of layers for a destination.

    Attributes:
        layers: the layers, each once.
        dest: the destination.
        names: the names of dest's registry, first the canonical one; what any of them has counts.
        home: the home registry, as far as it is known: layers without flags are there.
        deletions: whether to read also which layers were deleted from dest.
        account: the account whose denials to read too; none if it is empty.
    """

    layers: Sequence[Digest]
    dest: Repository
    names: Sequence[str]
    home: str | None = None
    deletions: bool = False
    account: str = ""

    def commands(self, keys: Keys, bound: int) -> list[Command]:
        """Return the commands that read a registry's traits, and sources, flags and must-mount flag of all layers.

        Args:
            keys: the namespace.
            bound: the most sources of a layer that are read for each name.
        """
        commands: list[Command] = []
        for name in self.names:
            commands += [("HMGET", keys.traits(name), *TRAITS), ("TTL", keys.traits(name))]
        for layer in self.layers:
            # SRANDMEMBER returns all members of a set within the bound, and of a larger one as many as the bound
            for name in self.names:
                commands.append(("SRANDMEMBER", keys.sources(layer, name), bound))
            commands += [("HGETALL", keys.flags(layer)), ("HGET", keys.must_mount(layer), "since")]
            if self._reads_home:
                commands.append(("SRANDMEMBER", keys.sources(layer, self.home or ""), bound))
        if self.deletions:
            commands += [("SISMEMBER", keys.deleted(each, self.names[0]), self.dest.name) for each in self.layers]
        if is_account(self.account):
            denied = keys.denied(self.names[0], self.account)
            commands += [("SRANDMEMBER", denied, DENIALS_MAX), ("TTL", denied)]
        return commands

    @property
    def _reads_home(self) -> bool:
        return self.home is not None and self.home not in self.names

    @property
    def _first(self) -> int:
        """How many replies are about registries, before those about layers."""
        return 2 * len(self.names)

    @property
    def _step(self) -> int:
        """How many replies there are for each layer."""
        return len(self.names) + 2 + self._reads_home

    def is_short_of(self, home: str | None, replies: Sequence[Any]) -> bool:
        """Return whether layers may be on the home registry, which was not known for this look-up."""
        if home is None or home == self.home or home in self.names:
            return False
        first, step = self._first, self._step
        flags = range(first + len(self.names), first + step * len(self.layers), step)
        return any(not replies[at] for at in flags)

    def knowledge(self, replies: Sequence[Any], now: float, names: RegistryNames) -> Knowledge:
        """Return what the replies say.

        Args:
            replies: one for each command, None where it was refused.
            now: epoch seconds; sources that have expired are left out.
            names: the names of all registries.
        """
        decoder, count, step = Decoder(self.dest, now, names), len(self.names), self._step
        first = self._first
        end = first + step * len(self.layers)
        known: dict[Digest, LayerKnowledge] = {}
        for layer, at in zip(self.layers, range(first, end, step), strict=True):
            members = replies[at] if count == 1 else list(_members(replies[at : at + count]))
            flags, since = replies[at + count], replies[at + count + 1]
            at_home = replies[at + count + 2] if self._reads_home else None
            known[layer] = decoder.layer(members, flags, since, at_home, self.home)
        denied: frozenset[Repository] = frozenset()
        if is_account(self.account):
            denied = denied_repositories(replies[-2], replies[-1], self.dest.registry)
        for layer, deleted in zip(self.layers, replies[end:] if self.deletions else (), strict=False):
            if truth(deleted):
                known[layer] = replace(known[layer], deleted=True)
        traits = [traits_of(*replies[at : at + 2]) for at in range(0, first, 2)]
        traits.reverse()  # what is recorded under the canonical name comes last
        return Knowledge(known, functools.reduce(RegistryTraits.updated, traits), denied)


def _members(replies: Sequence[Any]) -> Iterator[Any]:
    """Yield the members of several sets; a set whose reply is no list has none."""
    for reply in replies:
        yield from reply if isinstance(reply, list) else ()


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
