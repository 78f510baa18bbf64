"""A waiter, its patience and its claim; the answers of the server, and the decisions that follow: values."""

from collections.abc import Callable
from dataclasses import field

from crossmount._dataclass import dataclass
from crossmount.fleet.lease import Publishes, UploadProgress
from crossmount.fleet.turn import UploadSlots
from crossmount.oci import Digest, Repository

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
        """Return whether a layer of `size` bytes is worth waiting for."""
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


INVALID_NAMES_MAX = 512
"""With more invalid members in a layer's set of sources nobody waits for the layer: a stranger writes the set."""

OnWait = Callable[[Repository | None], None]
"""Receives the repository that another uploads the layer into; None if it is not known."""


def ignore_wait(into: Repository | None) -> None:
    """Default callback: does nothing."""
    del into


@dataclass(slots=True, kw_only=True, eq=False)
class Waiter:
    """A push that lacks a layer in a repository.

    Attributes:
        value: the unique text of its lease.
        publishes: when the registry lets others mount the layer: after its upload, or after a manifest.
        excluded: names of repositories that it cannot mount from, since it tried them.
        patience: how long it waits.
        slots: its upload slots; None for a watcher, which mounts or gives up, and never uploads.
        accepts: returns whether an upload into a repository is worth waiting for.
        on_wait: called once with the repository that another uploads the layer into.
        at_once: it gives up where it would have to wait.
        jitter: the part of its patience that it has, 0.8 to 1: the first waiter to lose patience uploads, and the
            others can still mount.
        stopped: whether `Fleet.stop_waiting` ended its patience.
        announced: whether `on_wait` was called.
        busy_since: when it first had to wait for another's upload; None if it never had to.
        invalid_names: members of the layer's set of sources that are not repository names.
        progress: the bytes of its own upload; None if nobody counts them.
    """

    layer: Digest
    dest: Repository
    size: int
    value: str
    excluded: set[str]
    patience: Patience
    slots: UploadSlots | None
    publishes: Publishes = "blob"
    accepts: Callable[[str], bool] = lambda _: True
    on_wait: OnWait = ignore_wait
    at_once: bool = False
    jitter: float = 1.0
    stopped: bool = False
    announced: bool = False
    busy_since: float | None = None
    invalid_names: set[bytes] = field(default_factory=set)
    progress: UploadProgress | None = None

    @property
    def key(self) -> tuple[str, Digest]:
        """The registry and the layer."""
        return self.dest.registry, self.layer

    @property
    def watch_only(self) -> bool:
        """Whether it never uploads."""
        return self.slots is None

    @property
    def may_give_up(self) -> bool:
        """Whether it ends without a turn if it can neither mount nor upload."""
        return self.watch_only or self.at_once

    def check_stalled(self) -> bool:
        """Compare with the earlier checks, and return whether its own upload is stalled."""
        return self.progress is not None and self.progress.check_stalled()

    def take_slot(self) -> bool:
        """Take one of its upload slots, if one is free now."""
        return self.slots is not None and self.slots.try_acquire()

    def return_slot(self) -> None:
        """Return a slot that was not used."""
        if self.slots is not None:
            self.slots.return_unused()

    def is_out_of_patience(self, now: float, rate: float | None) -> bool:
        """Return whether it has waited long enough."""
        if self.busy_since is None:
            return False
        if self.stopped or self.at_once:
            return True
        return now - self.busy_since >= self.jitter * self.patience.seconds(self.size, rate)


@dataclass(frozen=True, slots=True)
class Claim:
    """A question to the server: may this waiter upload? `take` acquires the lease if it is free.

    A claim that takes the lease has an upload slot reserved.

    Attributes:
        instead_of: the text of a lease that it takes over, since its holder shows no progress; a line end for a
            lease without a text, empty for none.
    """

    waiter: Waiter
    take: bool
    instead_of: bytes = b""


@dataclass(frozen=True, slots=True)
class SourcesFound:
    """Answer: the index has sources. `invalid_names` are members that are not repository names."""

    names: frozenset[str]
    invalid_names: frozenset[bytes] = frozenset()


@dataclass(frozen=True, slots=True)
class LeaseAcquired:
    """Answer: the lease is ours."""


@dataclass(frozen=True, slots=True)
class LeaseBusy:
    """Answer: another holds the lease, and uploads into the repository `into`, if its lease names one.

    Attributes:
        text: the lease's text, which differs for each holder.
        sent: bytes that the holder has sent, if it says so.
        size: all bytes, as the holder says.
    """

    into: str | None = None
    text: bytes = b""
    sent: int | None = None
    size: int = 0


@dataclass(frozen=True, slots=True)
class LeaseFree:
    """Answer: nobody holds the lease, and the claim did not take it."""


@dataclass(frozen=True, slots=True)
class IndexDown:
    """Answer: there is no server, or it does not answer. Nobody waits for uploads of other processes."""


ClaimAnswer = SourcesFound | LeaseAcquired | LeaseBusy | LeaseFree | IndexDown


@dataclass(frozen=True, slots=True)
class StartUpload:
    """Decision: the waiter uploads now, with a slot, and with a lease if `leased`."""

    waiter: Waiter
    leased: bool


@dataclass(frozen=True, slots=True)
class MountFrom:
    """Decision: the waiter mounts from the repositories `names`."""

    waiter: Waiter
    names: frozenset[str]


@dataclass(frozen=True, slots=True)
class ReturnSlot:
    """Decision: return the slot that was reserved for the waiter's claim."""

    waiter: Waiter


@dataclass(frozen=True, slots=True)
class ReleaseLease:
    """Decision: release the lease, or remove the entry, of a waiter that left while its claim was in flight."""

    waiter: Waiter


@dataclass(frozen=True, slots=True)
class EndLease:
    """Decision: the waiter's upload is stalled; release its lease, while the upload continues."""

    waiter: Waiter


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Decision: a waiter that may give up stops, since nobody uploads the layer, or its time is over."""

    waiter: Waiter


Decision = StartUpload | MountFrom | ReturnSlot | ReleaseLease | EndLease | GiveUp
