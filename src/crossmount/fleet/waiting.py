"""One who wants a layer, the question for it, the server's answers, and what follows from them: values."""

from collections.abc import Callable
from dataclasses import dataclass, field

from crossmount.fleet.patience import Patience
from crossmount.fleet.turn import UploadSlots
from crossmount.oci import Digest, Repository


@dataclass(frozen=True, slots=True)
class SourcesFound:
    """The index knows sources by now. `invalid_names` are members that are no repository names."""

    names: frozenset[str]
    invalid_names: frozenset[bytes] = frozenset()


@dataclass(frozen=True, slots=True)
class LeaseAcquired:
    """The lease is ours."""


@dataclass(frozen=True, slots=True)
class LeaseBusy:
    """Another holds the lease; `into` is the repository that it says it uploads into, if it says one."""

    into: str | None = None


@dataclass(frozen=True, slots=True)
class LeaseFree:
    """Nobody holds it, and we did not want it yet."""


@dataclass(frozen=True, slots=True)
class IndexDown:
    """There is no index, or it does not serve: nothing is known of others, so nobody waits for them."""


ClaimAnswer = SourcesFound | LeaseAcquired | LeaseBusy | LeaseFree | IndexDown

INVALID_NAMES_MAX = 512
"""After so many members that are no names nobody waits for a layer: its set is a stranger's."""

OnWait = Callable[[Repository | None], None]
"""Is told of the repository that another uploads the layer into; None if that is not known."""


def ignore_wait(into: Repository | None) -> None:
    """Care not for whose upload is waited for."""
    del into


@dataclass(slots=True, kw_only=True, eq=False)
class Waiter:
    """One who wants to bring a layer into a repository.

    Attributes:
        value: the text of its lease; its own alone.
        excluded: repositories that the index may name and that are no help, since they were tried.
        patience: how long it waits.
        slots: its upload slots; None for one who only looks: it would mount, never uploads, and is told as soon as
            there is nothing to wait for.
        accepts: tells whether an upload into a repository is worth waiting for.
        jitter: what part of its patience it has, 0.8 to 1: not all end in the same moment, so that the first to
            upload can spare the others.
        invalid_names: members of the layer's set that are no names at all.
        stopped: its patience was ended for it.
        on_wait: told, once, of the repository that another uploads the layer into meanwhile.
        announced: whether it was.
        busy_since: when it first could not go on because of another's upload; None if that never was.
    """

    layer: Digest
    dest: Repository
    size: int
    value: str
    excluded: set[str]
    patience: Patience
    slots: UploadSlots | None
    accepts: Callable[[str], bool] = lambda _: True
    on_wait: OnWait = ignore_wait
    jitter: float = 1.0
    stopped: bool = False
    announced: bool = False
    busy_since: float | None = None
    invalid_names: set[bytes] = field(default_factory=set)

    @property
    def place(self) -> tuple[str, Digest]:
        """Where it stands in line."""
        return self.dest.registry, self.layer

    @property
    def watch_only(self) -> bool:
        """Whether it only looks."""
        return self.slots is None

    def takes_slot(self) -> bool:
        """Take one of its upload slots, if one is free now."""
        return self.slots is not None and self.slots.try_acquire()

    def put_slot_back(self) -> None:
        """Give a slot back that was not used."""
        if self.slots is not None:
            self.slots.return_unused()

    def is_out_of_patience(self, now: float, rate: float | None) -> bool:
        """Tell whether its patience has ended."""
        if self.busy_since is None:
            return False
        if self.stopped:
            return True
        return now - self.busy_since >= self.jitter * self.patience.seconds(self.size, rate)


@dataclass(frozen=True, slots=True)
class Claim:
    """A question to the server; `take` the lease if it is free (an upload slot is kept for it meanwhile)."""

    waiter: Waiter
    take: bool


@dataclass(frozen=True, slots=True)
class StartUpload:
    """A waiter's turn to upload, with a slot; without a lease if its patience ended (`leased`)."""

    waiter: Waiter
    leased: bool


@dataclass(frozen=True, slots=True)
class MountFrom:
    """A waiter can mount from these repositories."""

    waiter: Waiter
    names: frozenset[str]


@dataclass(frozen=True, slots=True)
class ReturnSlot:
    """The slot that was kept for a waiter's claim is not needed."""

    waiter: Waiter


@dataclass(frozen=True, slots=True)
class ReleaseLease:
    """What a waiter's claim took or noted, the lease or that it waits, is not needed: it left meanwhile."""

    waiter: Waiter


@dataclass(frozen=True, slots=True)
class GiveUp:
    """One who only looks need not wait any more: nobody uploads the layer, or not soon enough."""

    waiter: Waiter


Decision = StartUpload | MountFrom | ReturnSlot | ReleaseLease | GiveUp
