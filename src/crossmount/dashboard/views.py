"""What each view shows, as values for its template. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import date

from crossmount._dataclass import dataclass
from crossmount.dashboard.charts import Column, columns
from crossmount.dashboard.reader import RegistryState
from crossmount.fleet.active_uploads import MeasuredUpload
from crossmount.index.protocol import LayerEntry
from crossmount.index.redis_index import TTL_SECONDS
from crossmount.maintenance import IndexInfo, RegistryInfo
from crossmount.savings.accounts import OTHER, LayerAccount, UploadReason
from crossmount.savings.report import Savings
from crossmount.savings.tally import Tally

PERIODS: Mapping[int, str] = {7: "7 days", 30: "30 days", 90: "90 days", 400: "all days"}
"""The periods that a reader can choose, in days."""

PERIOD = 30
"""The period that is shown first."""

ROWS_MAX = 50
"""The most rows of a table."""

FIRST_ROWS = 10
"""How many rows are shown at once; a click unfolds the others."""

LAYERS_MAX = 8
"""The most layers of a table."""

REASONS: Mapping[UploadReason, tuple[str, str]] = {
    "unknown": ("no source was known", "scan the registry that has it: crossmount scan"),
    "unreadable": ("the pusher may not read its sources", "give the account the right to pull from them"),
    "unmountable": ("the registry did not mount it", "see the registry's row: some mount only by name, or never"),
    "gone": (
        "its sources no longer had it",
        "the registry deletes layers that are still pushed: see its retention",
    ),
    "small": ("too small to wait for", "nothing to do: waiting would take longer"),
}
"""Why a layer was uploaded again, and what to do about it."""


@dataclass(frozen=True, slots=True)
class Tile:
    """One big number of bytes saved.

    Attributes:
        label: the period.
        tally: its sum.
        seconds: an estimate of the time saved; None if no upload was timed.
    """

    label: str
    tally: Tally
    seconds: float | None


@dataclass(frozen=True, slots=True)
class RegistryRow:
    """A registry: what was saved on it, and how it behaves.

    Attributes:
        name: its name; `OTHER` for those without a row of their own.
        share: its part of the largest row, 0 to 1.
        info: what the index contains of it.
        state: what the index knows of it.
        latency: seconds until its first answer, lately; None if nobody measures it.
    """

    name: str
    tally: Tally
    share: float
    info: RegistryInfo | None
    state: RegistryState | None
    latency: float | None


@dataclass(frozen=True, slots=True)
class RepositoryRow:
    """Repositories on one registry whose names have the same first component.

    Attributes:
        registry: the registry.
        prefix: the component; `OTHER` for those without a row of their own.
        share: the part of the largest row, 0 to 1.
    """

    registry: str
    prefix: str
    tally: Tally
    share: float


@dataclass(frozen=True, slots=True)
class Cause:
    """A reason for uploads of layers that could have been mounted.

    Attributes:
        why: the reason.
        advice: what to do about it.
        size: bytes that were uploaded again.
    """

    why: str
    advice: str
    size: int


@dataclass(frozen=True, slots=True)
class Period:
    """The days that a view shows.

    Attributes:
        days: how many; a key of `PERIODS`.
        since: the first day that is shown.
        until: the last day.
        total: their sum.
        columns: the columns of the chart.
    """

    days: int
    since: date
    until: date
    total: Tally
    columns: tuple[Column, ...]


@dataclass(frozen=True, slots=True)
class LayerPlace:
    """A registry on which a layer is.

    Attributes:
        registry: the registry.
        names: the repositories there.
        confirmed: about how many seconds ago a push or a scan last saw the layer there.
        forgotten: in how many seconds the index forgets it, unless it is seen again.
    """

    registry: str
    names: tuple[str, ...]
    confirmed: int
    forgotten: int


def last_days(savings: Savings, count: int) -> Savings:
    """Return the accounts of the last days of a period."""
    return Savings(savings.days[-count:])


def first_push(savings: Savings) -> date | None:
    """Return the first day with a push; None if there was none."""
    return next((day.day for day in savings.days if day.by), None)


def tiles(savings: Savings) -> Sequence[Tile]:
    """Return the big numbers: today, the last seven days, and all days that are kept."""
    return [
        Tile(label, part.total, part.seconds_saved)
        for label, part in (
            ("Today", last_days(savings, 1)),
            ("Last 7 days", last_days(savings, 7)),
            ("In all", savings),
        )
    ]


def period(savings: Savings, days: int) -> Period:
    """Return the last days of the accounts. `all days` begin with the first push."""
    part = last_days(savings, days)
    first = first_push(part)
    if days == max(PERIODS) and first is not None:
        part = last_days(part, max((part.until - first).days + 1, 7))
    by_day = part.by_day
    return Period(days, part.since, part.until, Tally.total(by_day.values()), columns(by_day))


def registry_rows(
    savings: Savings,
    info: IndexInfo | None,
    states: Mapping[str, RegistryState],
    latencies: Mapping[str, float],
) -> Sequence[RegistryRow]:
    """Return a row for each registry of the accounts or of the index, the one that saved most first."""
    tallies = savings.by_registry
    infos = {} if info is None else info.registries
    most = max((tally.bytes_saved for tally in tallies.values()), default=0)
    names = [name for name in dict.fromkeys([*tallies, *infos]) if name != OTHER][:ROWS_MAX]
    if OTHER in tallies:
        names.append(OTHER)
    return [
        RegistryRow(
            name,
            (tally := tallies.get(name, Tally())),
            tally.bytes_saved / most if most else 0.0,
            infos.get(name),
            states.get(name),
            latencies.get(name),
        )
        for name in names
    ]


def repository_rows(savings: Savings) -> Sequence[RepositoryRow]:
    """Return the rows of the accounts, the one that saved most first."""
    rows = list(savings.by_row.items())[:ROWS_MAX]
    most = max((tally.bytes_saved for _, tally in rows), default=0)
    return [
        RepositoryRow(registry, prefix, tally, tally.bytes_saved / most if most else 0.0)
        for (registry, prefix), tally in rows
    ]


def causes(layers: Iterable[LayerAccount]) -> Sequence[Cause]:
    """Return why layers were uploaded again, the costliest reason first. Each layer counts for one reason."""
    sums: dict[UploadReason, int] = defaultdict(int)
    for layer in layers:
        if layer.reason is not None:
            sums[layer.reason] += layer.bytes_uploaded_again
    return [
        Cause(*REASONS[reason], size)
        for reason, size in sorted(sums.items(), key=lambda item: (-item[1], item[0]))
        if size
    ]


def places(entry: LayerEntry) -> Sequence[LayerPlace]:
    """Return where a layer is.

    The index stores when it forgets a layer, and each sighting renews that, which tells when the last one was.
    """
    return [
        LayerPlace(registry, held.names, max(TTL_SECONDS - held.seconds_left, 0), held.seconds_left)
        for registry, held in sorted(entry.registries.items())
    ]


def uploads_of(
    found: Iterable[MeasuredUpload], *, registry: str = "", prefix: str = "", layer: str = ""
) -> Sequence[MeasuredUpload]:
    """Return the uploads to a registry, to repositories with the same first component, or of a layer."""
    return [
        each
        for each in found
        if registry in {"", each.registry}
        and prefix in {"", each.repository.partition("/")[0]}
        and layer in {"", str(each.layer)}
    ]


def trait_word(value: bool | None, *, yes: str = "yes", no: str = "no", unknown: str = "not seen yet") -> str:
    """Return what is known of a trait."""
    return unknown if value is None else yes if value else no
