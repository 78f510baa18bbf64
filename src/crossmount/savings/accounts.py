"""The accounts of days: what one push adds to them, and what is read back.

A row of a day is of one registry and one prefix, the first component of repositories' names. A day has few rows:
small ones are added to the row `OTHER` of their registry, or of all registries.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field
from datetime import date
from typing import Literal, Protocol, get_args, runtime_checkable

from crossmount._dataclass import dataclass
from crossmount.oci import Digest, Repository
from crossmount.savings.tally import Tally

OTHER = "*"
"""The name of the row that sums up everything without a row of its own. No registry or repository has it."""

UploadReason = Literal["unknown", "unreadable", "unmountable", "gone", "small"]
"""Why a layer was uploaded although a registry of the fleet may have had it.

`unknown`: the index named no source on this registry. `unreadable`: the account may not read the sources.
`unmountable`: the registry did not mount from them. `gone`: the sources no longer had it. `small`: another push
was uploading it at the same time, and it is too small to wait for.
"""

LayerFate = Literal["mounted"] | UploadReason
"""What happened to a layer in one push: it was mounted, or it was uploaded for a reason."""

FATES: tuple[LayerFate, ...] = ("mounted", *get_args(UploadReason))

IDS_MAX = 256
"""How many pushes are remembered, so that none of them is added twice."""

Row = tuple[str, str]
"""A registry, and the first component of repositories' names; both may be `OTHER`."""


@dataclass(frozen=True, slots=True)
class LayerIncrement:
    """One layer of one push.

    Attributes:
        size: bytes, more than 0.
    """

    digest: Digest
    size: int
    fate: LayerFate


@dataclass(frozen=True, slots=True)
class PushIncrement:
    """What one push adds to the accounts of the day on which it ends.

    Attributes:
        registry: the registry that was pushed to.
        prefix: the first component of the repository's name.
        layers: the largest layers that were mounted or uploaded.
    """

    registry: str
    prefix: str
    tally: Tally
    layers: tuple[LayerIncrement, ...] = ()

    @property
    def row(self) -> Row:
        """The row that it belongs to."""
        return self.registry, self.prefix


@dataclass(frozen=True, slots=True)
class AccountEntry:
    """A push, to be added to the accounts.

    Attributes:
        id: eight random letters, digits, `-` and `_`: the same id is added once.
        day: the day on which the push ended, in UTC.
    """

    id: str
    day: date
    increment: PushIncrement


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerAccount:
    """What happened to one layer in a period. Counts may be too low, never too high.

    Attributes:
        size: bytes.
        mounted: how often it was mounted.
        uploaded: how often it was uploaded, for each reason.
    """

    digest: Digest
    size: int
    mounted: int = 0
    uploaded: Mapping[UploadReason, int] = field(default_factory=dict)

    @property
    def bytes_mounted(self) -> int:
        """Bytes that mounts of it saved."""
        return self.mounted * self.size

    @property
    def uploads(self) -> int:
        """How often it was uploaded."""
        return sum(self.uploaded.values())

    @property
    def uploads_again(self) -> int:
        """How often it was uploaded after its first upload in this period, which may have been necessary."""
        return max(0, self.uploads - 1)

    @property
    def bytes_uploaded_again(self) -> int:
        """Bytes that mounts of it would have saved."""
        return self.uploads_again * self.size

    @property
    def reason(self) -> UploadReason | None:
        """The most frequent reason of the uploads; None if there were none."""
        return max(self.uploaded, key=lambda reason: (self.uploaded[reason], reason), default=None)


@dataclass(frozen=True, slots=True)
class DayAccounts:
    """The accounts of one day.

    Attributes:
        day: the day, in UTC by the clocks of the pushers. A push counts on the day on which it ends.
        by: the rows.
        layers: the layers that moved or saved most bytes, in no order.
    """

    day: date
    by: Mapping[Row, Tally] = field(default_factory=dict)
    layers: Sequence[LayerAccount] = ()

    @property
    def total(self) -> Tally:
        """The sum of all rows."""
        return Tally.total(self.by.values())


@runtime_checkable
class ReadsAccounts(Protocol):
    """An index that keeps accounts. A user's own index need not."""

    async def read_accounts(self, days: Sequence[date]) -> Sequence[DayAccounts]:
        """Return the accounts of days, in their order, in one round trip; a day without pushes is empty.

        Raises:
            IndexFailedError: no answer, or the server refuses to read them.
        """
        ...


def prefix_of(repository: Repository) -> str:
    """Return the first component of a repository's name."""
    return repository.name.partition("/")[0]


def layer_accounts(counts: Iterable[tuple[LayerIncrement, int]]) -> Sequence[LayerAccount]:
    """Return the account of each layer, given how often it had each fate."""
    mounted: dict[tuple[Digest, int], int] = defaultdict(int)
    uploaded: dict[tuple[Digest, int], dict[UploadReason, int]] = {}
    for layer, times in counts:
        key = layer.digest, layer.size
        reasons = uploaded.setdefault(key, defaultdict(int))
        if layer.fate == "mounted":
            mounted[key] += times
        else:
            reasons[layer.fate] += times
    return [
        LayerAccount(digest=key[0], size=key[1], mounted=mounted[key], uploaded=dict(reasons))
        for key, reasons in uploaded.items()
    ]


class MemoryAccounts:
    """Accounts in this process.

    Args:
        rows: the most rows of a day; others are added to the row `OTHER` of their registry, or of all.
        layers: the most layers of a day; those of which most bytes moved stay.
        days: the most days; older ones are removed.
    """

    def __init__(self, *, rows: int = 256, layers: int = 1024, days: int = 400) -> None:
        self._rows_max = rows
        self._layers_max = layers
        self._days_max = days
        self._rows: dict[date, dict[Row, Tally]] = {}
        self._layers: dict[date, Counter[LayerIncrement]] = {}
        self._ids: deque[str] = deque(maxlen=IDS_MAX)

    def account(self, *entries: AccountEntry) -> None:
        """Add pushes, each once."""
        for entry in entries:
            if entry.id not in self._ids:
                self._ids.append(entry.id)
                self.add(entry.day, entry.increment)

    def take_unwritten(self) -> Sequence[AccountEntry]:
        """Return nothing: everything is already written."""
        return ()

    def add(self, day: date, increment: PushIncrement) -> None:
        """Add what one push did to the accounts of a day."""
        rows = self._rows.setdefault(day, {})
        row = self._row_for(rows, increment.row)
        rows[row] = rows.get(row, Tally()) + increment.tally
        layers = self._layers.setdefault(day, Counter())
        layers.update(increment.layers)
        if len(layers) > 2 * self._layers_max:
            by_bytes = sorted(layers.items(), key=lambda item: item[0].size * item[1], reverse=True)
            self._layers[day] = Counter(dict(by_bytes[: self._layers_max]))
        while len(self._rows) > self._days_max:
            oldest = min(self._rows)
            del self._rows[oldest], self._layers[oldest]

    def _row_for(self, rows: Mapping[Row, Tally], row: Row) -> Row:
        """Return a row, or the one that stands for it where the day has too many."""
        if row in rows or len(rows) < self._rows_max:
            return row
        others = (row[0], OTHER)
        return others if others in rows or len(rows) < 2 * self._rows_max else (OTHER, OTHER)

    async def read_accounts(self, days: Sequence[date]) -> Sequence[DayAccounts]:
        """Return the accounts of days, in their order; a day without pushes is empty."""
        return [DayAccounts(day, dict(self._rows.get(day, {})), self._layers_of(day)) for day in days]

    def _layers_of(self, day: date) -> Sequence[LayerAccount]:
        return layer_accounts(self._layers.get(day, Counter()).items())
