"""The accounts of a period: sums by day, registry, prefix and layer."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from datetime import date, timedelta
from typing import TypeVar

from crossmount._dataclass import dataclass
from crossmount.errors import InvalidInputError
from crossmount.oci import Digest
from crossmount.savings.accounts import DayAccounts, LayerAccount, ReadsAccounts, Row, UploadReason
from crossmount.savings.tally import Tally

DAYS_MAX = 400
"""How many days accounts are kept."""

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Savings:
    """The accounts of a period.

    Attributes:
        days: every day of the period, the first one first, also those without pushes.
    """

    days: tuple[DayAccounts, ...]

    @property
    def since(self) -> date:
        """The first day."""
        return self.days[0].day

    @property
    def until(self) -> date:
        """The last day."""
        return self.days[-1].day

    @property
    def total(self) -> Tally:
        """The sum of all days."""
        return Tally.total(day.total for day in self.days)

    @property
    def by_day(self) -> Mapping[date, Tally]:
        """The sum of each day, the first one first."""
        return {day.day: day.total for day in self.days}

    @property
    def by_registry(self) -> Mapping[str, Tally]:
        """The sum of each registry, the one that saved most first; `OTHER` for those without a row."""
        return self._grouped(lambda row: row[0])

    @property
    def by_row(self) -> Mapping[Row, Tally]:
        """The sum of each registry and prefix, the one that saved most first."""
        return self._grouped(lambda row: row)

    @property
    def seconds_saved(self) -> float | None:
        """An estimate of the time saved, each registry at the rate of its own uploads, in seconds.

        A registry without uploads counts at the rate of all. None if no upload was timed.
        """
        rate = self.total.rate
        if rate is None:
            return None
        return sum(tally.seconds_saved_at(tally.rate or rate) for tally in self.by_registry.values())

    @property
    def most_mounted(self) -> Sequence[LayerAccount]:
        """The layers that were mounted, those that saved most bytes first."""
        return _ranked(self._layers(), lambda layer: layer.bytes_mounted)

    @property
    def most_uploaded_again(self) -> Sequence[LayerAccount]:
        """The layers that were uploaded more than once, those that cost most bytes first."""
        return _ranked(self._layers(), lambda layer: layer.bytes_uploaded_again)

    def layer(self, digest: Digest) -> LayerAccount | None:
        """Return the account of one layer; None if it is not among those that are kept."""
        return next((layer for layer in self._layers() if layer.digest == digest), None)

    def only(self, *, registry: str | None = None, prefix: str | None = None) -> "Savings":
        """Return the accounts of one registry or prefix alone, without layers."""

        def is_wanted(row: Row) -> bool:
            return registry in {None, row[0]} and prefix in {None, row[1]}

        return Savings(
            tuple(
                DayAccounts(day.day, {row: tally for row, tally in day.by.items() if is_wanted(row)})
                for day in self.days
            )
        )

    def _grouped(self, key: Callable[[Row], K]) -> Mapping[K, Tally]:
        groups: dict[K, list[Tally]] = defaultdict(list)
        for day in self.days:
            for row, tally in day.by.items():
                groups[key(row)].append(tally)
        sums = {name: Tally.total(tallies) for name, tallies in groups.items()}
        return dict(sorted(sums.items(), key=lambda item: (-item[1].bytes_saved, str(item[0]))))

    def _layers(self) -> Iterable[LayerAccount]:
        by_digest: dict[tuple[Digest, int], list[LayerAccount]] = defaultdict(list)
        for day in self.days:
            for layer in day.layers:
                by_digest[layer.digest, layer.size].append(layer)
        for (digest, size), parts in by_digest.items():
            uploaded: dict[UploadReason, int] = defaultdict(int)
            for part in parts:
                for reason, times in part.uploaded.items():
                    uploaded[reason] += times
            mounted = sum(part.mounted for part in parts)
            yield LayerAccount(digest=digest, size=size, mounted=mounted, uploaded=dict(uploaded))


async def read_savings(index: object, *, since: date, until: date) -> Savings:
    """Read the accounts of a period, in one round trip.

    Args:
        index: the index; one that keeps no accounts has empty days.
        since: the first day; at most `DAYS_MAX` days before the last one are read.
        until: the last day, included.

    Raises:
        IndexFailedError: the index does not answer.
        InvalidInputError: the period ends before it begins.
    """
    if until < since:
        raise InvalidInputError(f"the period ends before it begins: {since} to {until}: give an earlier begin")
    first = max(since, until - timedelta(days=DAYS_MAX))
    days = [first + timedelta(days=number) for number in range((until - first).days + 1)]
    if not isinstance(index, ReadsAccounts):
        return Savings(tuple(map(DayAccounts, days)))
    return Savings(tuple(await index.read_accounts(days)))


def _ranked(layers: Iterable[LayerAccount], key: Callable[[LayerAccount], int]) -> Sequence[LayerAccount]:
    return sorted((layer for layer in layers if key(layer)), key=lambda layer: (-key(layer), layer.digest))
