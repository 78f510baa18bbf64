"""Helpers for tests of the accounts: pushes with ids, and what an index then says of a period."""

from collections.abc import Iterable, Sequence
from datetime import date, timedelta

from hypothesis import strategies as st

from crossmount.index import RedisMountIndex, Sighting
from crossmount.oci import Digest
from crossmount.savings import AccountEntry, LayerIncrement, PushIncrement, Savings, Tally, read_savings
from crossmount.savings.accounts import FATES
from support.index_kit import layer, repo

FIRST = date(2026, 11, 20)
REGISTRY = "r.example"
SEEN = [Sighting(layer(1), repo("team/a"), 7)]


def entry(
    number: int,
    *,
    prefix: str = "team",
    registry: str = REGISTRY,
    day: date = FIRST,
    layers: Sequence[LayerIncrement] = (),
    **numbers: int,
) -> AccountEntry:
    """Return a push with a number as its id; `numbers` are fields of its tally."""
    increment = PushIncrement(registry, prefix, Tally(**numbers), tuple(layers))
    return AccountEntry(f"{number:08d}", day, increment)


async def written(index: RedisMountIndex, *pushes: AccountEntry) -> None:
    """Account pushes, and record a sighting, which writes them."""
    index.account(*pushes)
    await index.record(SEEN)


def total(entries: Iterable[AccountEntry]) -> Tally:
    """Return the sum of pushes."""
    return Tally.total(each.increment.tally for each in entries)


async def week(index: object, days: int = 7) -> Savings:
    """Read the accounts of the days from `FIRST` on."""
    return await read_savings(index, since=FIRST, until=FIRST + timedelta(days=days - 1))


def entries(*, registries: int = 3, prefixes: int = 12, most: int = 40) -> st.SearchStrategy[list[AccountEntry]]:
    """Return a strategy of pushes on four days, each with an id of its own."""
    increments = st.builds(
        PushIncrement,
        st.integers(0, registries - 1).map(lambda number: f"r{number}.example"),
        st.integers(0, prefixes - 1).map(lambda number: f"team{number}"),
        st.lists(st.integers(0, 10**9), min_size=14, max_size=14).map(Tally.of),
        st.lists(
            st.builds(
                LayerIncrement,
                st.integers(0, 5).map(lambda number: Digest.of(b"%d" % number)),
                st.sampled_from([1, 1000]),
                st.sampled_from(FATES),
            ),
            max_size=3,
        ).map(tuple),
    )
    days = st.integers(0, 3).map(lambda number: FIRST + timedelta(days=number))
    pushes = st.lists(st.tuples(days, increments), max_size=most)
    return pushes.map(lambda made: [AccountEntry(f"{n:08d}", *push) for n, push in enumerate(made)])
