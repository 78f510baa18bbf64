"""One who wants a layer, the question for it, the server's answers, and what follows from them: values."""

from collections.abc import Callable
from dataclasses import dataclass, field

from crossmount.fleet.patience import Patience
from crossmount.fleet.turn import UploadSlots
from crossmount.oci import Digest, Repository


@dataclass(frozen=True, slots=True)
class Appeared:
    """The index knows sources by now. `junk` are members that are no repository names."""

    names: frozenset[str]
    junk: frozenset[bytes] = frozenset()


@dataclass(frozen=True, slots=True)
class Held:
    """The lease is ours."""


@dataclass(frozen=True, slots=True)
class Busy:
    """Another holds the lease; `into` is the repository that it says it uploads into, if it says one."""

    into: str | None = None


@dataclass(frozen=True, slots=True)
class Free:
    """Nobody holds it, and we did not want it yet."""


@dataclass(frozen=True, slots=True)
class Unserved:
    """There is no index, or it does not serve: nothing is known of others, so nobody waits for them."""


Answer = Appeared | Held | Busy | Free | Unserved

JUNK_MAX = 512
"""After so many members that are no names nobody waits for a layer: its set is a stranger's."""

Waits = Callable[[Repository | None], None]
"""Is told of the repository that another uploads the layer into; None if that is not known."""


def unheard(into: Repository | None) -> None:
    """Care not for whose upload is waited for."""
    del into


@dataclass(slots=True, kw_only=True, eq=False)
class Waiter:
    """One who wants to bring a layer into a repository.

    Attributes:
        value: the text of its lease; its own alone.
        useless: repositories that the index may name and that are no help, since they were tried.
        patience: how long it waits.
        slots: its upload slots; None for one who only looks: it would mount, never uploads, and is told as soon as
            there is nothing to wait for.
        accepts: tells whether an upload into a repository is worth waiting for.
        spread: what part of its patience it has, 0.8 to 1: not all end in the same moment, so that the first to
            upload can spare the others.
        junk: members of the layer's set that are no names at all.
        hurried: its patience was ended for it.
        waits: told, once, of the repository that another uploads the layer into meanwhile.
        told: whether it was.
        busy_since: when it first could not go on because of another's upload; None if that never was.
    """

    layer: Digest
    dest: Repository
    size: int
    value: str
    useless: set[str]
    patience: Patience
    slots: UploadSlots | None
    accepts: Callable[[str], bool] = lambda _: True
    waits: Waits = unheard
    spread: float = 1.0
    hurried: bool = False
    told: bool = False
    busy_since: float | None = None
    junk: set[bytes] = field(default_factory=set)

    @property
    def place(self) -> tuple[str, Digest]:
        """Where it stands in line."""
        return self.dest.registry, self.layer

    @property
    def looks(self) -> bool:
        """Whether it only looks."""
        return self.slots is None

    def takes_slot(self) -> bool:
        """Take one of its upload slots, if one is free now."""
        return self.slots is not None and self.slots.take_now()

    def put_slot_back(self) -> None:
        """Give a slot back that was not used."""
        if self.slots is not None:
            self.slots.put_back()

    def is_late(self, now: float, rate: float | None) -> bool:
        """Tell whether its patience has ended."""
        if self.busy_since is None:
            return False
        if self.hurried:
            return True
        return now - self.busy_since >= self.spread * self.patience.seconds(self.size, rate)


@dataclass(frozen=True, slots=True)
class Claim:
    """A question to the server; `take` the lease if it is free (an upload slot is kept for it meanwhile)."""

    waiter: Waiter
    take: bool


@dataclass(frozen=True, slots=True)
class Go:
    """A waiter's turn to upload, with a slot; without a lease if its patience ended (`leased`)."""

    waiter: Waiter
    leased: bool


@dataclass(frozen=True, slots=True)
class MountFrom:
    """A waiter can mount from these repositories."""

    waiter: Waiter
    names: frozenset[str]


@dataclass(frozen=True, slots=True)
class SlotBack:
    """The slot that was kept for a waiter's claim is not needed."""

    waiter: Waiter


@dataclass(frozen=True, slots=True)
class LeaseBack:
    """What a waiter's claim took or noted, the lease or that it waits, is not needed: it left meanwhile."""

    waiter: Waiter


@dataclass(frozen=True, slots=True)
class InVain:
    """One who only looks need not wait any more: nobody uploads the layer, or not soon enough."""

    waiter: Waiter


Decision = Go | MountFrom | SlotBack | LeaseBack | InVain
