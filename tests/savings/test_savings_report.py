"""The accounts of a period are sums of what pushes did."""

from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossmount.errors import InvalidInputError
from crossmount.oci import Digest, Repository
from crossmount.savings import LayerIncrement, MemoryAccounts, PushIncrement, Tally, read_savings
from crossmount.savings.accounts import FATES, LayerFate, prefix_of

FIRST = date(2026, 11, 20)
SMALL, LARGE = Digest.of(b"small"), Digest.of(b"large")

tallies = st.lists(st.integers(0, 2**40), min_size=14, max_size=14).map(Tally.of)
increments = st.builds(
    PushIncrement,
    st.sampled_from(["a.example:443", "b.example:443"]),
    st.sampled_from(["team", "base"]),
    tallies,
    st.lists(
        st.builds(
            LayerIncrement, st.sampled_from([SMALL, LARGE]), st.sampled_from([1, 1000]), st.sampled_from(FATES)
        ),
        max_size=3,
    ).map(tuple),
)
pushes = st.lists(st.tuples(st.integers(0, 3), increments), max_size=12)


async def accounts_of(pushed: list[tuple[int, PushIncrement]]) -> MemoryAccounts:
    """Return accounts with these pushes, each on its day."""
    accounts = MemoryAccounts()
    for number, increment in pushed:
        accounts.add(FIRST + timedelta(days=number), increment)
    return accounts


@given(pushes)
async def test_every_sum_is_that_of_the_pushes(pushed: list[tuple[int, PushIncrement]]) -> None:
    """The sums by day, registry and prefix are each the sum of all pushes."""
    savings = await read_savings(await accounts_of(pushed), since=FIRST, until=FIRST + timedelta(days=3))
    total = Tally.total(increment.tally for _, increment in pushed)
    assert savings.total == total
    for groups in (savings.by_day, savings.by_registry, savings.by_row):
        assert Tally.total(groups.values()) == total
    mounted = sum(layer.size for _, push in pushed for layer in push.layers if layer.fate == "mounted")
    assert sum(layer.bytes_mounted for layer in savings.most_mounted) == mounted


@given(pushes, st.randoms(use_true_random=False))
async def test_the_order_of_pushes_does_not_matter(pushed: list[tuple[int, PushIncrement]], rng: object) -> None:
    """The same pushes in another order give the same accounts."""
    shuffled = sorted(pushed, key=lambda _: rng.random())  # type: ignore[attr-defined]
    period = {"since": FIRST, "until": FIRST + timedelta(days=3)}
    one = await read_savings(await accounts_of(pushed), **period)
    other = await read_savings(await accounts_of(shuffled), **period)
    assert (one.total, one.by_day, one.by_row) == (other.total, other.by_day, other.by_row)
    assert one.most_uploaded_again == other.most_uploaded_again
    assert one.seconds_saved == other.seconds_saved


async def test_a_day_without_pushes_is_empty() -> None:
    """A period has every day, and an index without accounts has empty ones."""
    savings = await read_savings(object(), since=FIRST, until=FIRST + timedelta(days=6))
    assert len(savings.days) == 7
    assert (savings.since, savings.until) == (FIRST, FIRST + timedelta(days=6))
    assert savings.total == Tally()
    assert savings.total.share_saved is None
    assert savings.seconds_saved is None


async def test_a_period_that_ends_before_it_begins_is_an_error() -> None:
    """The error names both days."""
    with pytest.raises(InvalidInputError, match="2026-11-20 to 2026-11-19"):
        await read_savings(object(), since=FIRST, until=FIRST - timedelta(days=1))


async def test_at_most_400_days_are_read() -> None:
    """A period that begins long ago is cut to what is kept."""
    savings = await read_savings(object(), since=date(1970, 1, 1), until=FIRST)
    assert savings.since == FIRST - timedelta(days=400)


def test_saved_time_is_estimated_at_the_rate_of_the_uploads() -> None:
    """Bytes that were not sent count at the rate of those that were, without the time of waiting."""
    tally = Tally(bytes_mounted=3000, bytes_waited=1000, bytes_uploaded=2000, ms_uploading=1000, ms_waiting=500)
    assert tally.rate == 2000
    assert tally.seconds_saved == 1.5
    assert tally.share_saved == pytest.approx(4000 / 6000)
    assert Tally(bytes_mounted=3000).seconds_saved is None


async def test_each_registry_has_its_own_rate() -> None:
    """A slow registry's mounts save more time than those of a fast one."""
    slow = Tally(bytes_mounted=1000, bytes_uploaded=100, ms_uploading=1000)
    fast = Tally(bytes_mounted=1000, bytes_uploaded=1000, ms_uploading=1000)
    accounts = await accounts_of([(0, PushIncrement("a:443", "x", slow)), (0, PushIncrement("b:443", "x", fast))])
    savings = await read_savings(accounts, since=FIRST, until=FIRST)
    assert savings.seconds_saved == pytest.approx(10 + 1)
    assert savings.only(registry="a:443").seconds_saved == pytest.approx(10)


async def test_a_layer_that_was_uploaded_once_and_then_mounted_was_not_uploaded_again() -> None:
    """The upload that the mounts came from is not one that a mount would have saved."""
    fates: tuple[LayerFate, ...] = ("unknown", "mounted", "mounted")
    layers = [LayerIncrement(LARGE, 1000, fate) for fate in fates]
    accounts = await accounts_of([(0, PushIncrement("a:443", "x", Tally(), (layer,))) for layer in layers])
    savings = await read_savings(accounts, since=FIRST, until=FIRST)
    assert savings.most_uploaded_again == []


async def test_a_layer_says_why_it_was_uploaded_again() -> None:
    """The first upload is none too many; the reason is the most frequent one."""
    fates: tuple[LayerFate, ...] = ("unknown", "gone", "gone")
    layers = [LayerIncrement(LARGE, 1000, fate) for fate in fates]
    accounts = await accounts_of([(0, PushIncrement("a:443", "x", Tally(), (layer,))) for layer in layers])
    savings = await read_savings(accounts, since=FIRST, until=FIRST)
    (layer,) = savings.most_uploaded_again
    assert (layer.uploads_again, layer.bytes_uploaded_again, layer.reason) == (2, 2000, "gone")
    assert savings.layer(LARGE) == layer
    assert savings.layer(SMALL) is None
    assert not savings.most_mounted


def test_a_prefix_is_the_first_component_of_a_name() -> None:
    """One of Docker Hub's official images is under `library`."""
    assert prefix_of(Repository("a.example", "team/app/web")) == "team"
    assert prefix_of(Repository("docker.io", "nginx")) == "library"
    assert prefix_of(Repository("a.example", "app")) == "app"


async def test_accounts_in_memory_are_bounded() -> None:
    """However many repositories, layers and days there are, rows and layers stay few, and no sum changes."""
    accounts = MemoryAccounts(rows=3, layers=4, days=2)
    first = date(2026, 1, 1)
    for number in range(60):
        layer = LayerIncrement(Digest.of(str(number).encode()), number + 1, "mounted")
        tally = Tally(pushes=1, bytes_mounted=number)
        increment = PushIncrement(f"r{number % 9}", f"p{number}", tally, (layer,))
        accounts.add(first + timedelta(days=number // 30), increment)
    found = await accounts.read_accounts([first, first + timedelta(days=1)])
    assert [day.total.pushes for day in found] == [30, 30]
    assert sum(day.total.bytes_mounted for day in found) == sum(range(60))
    assert all(len(day.by) <= 7 and len(day.layers) <= 8 for day in found)
    accounts.add(first + timedelta(days=2), PushIncrement("r", "p", Tally(pushes=1)))
    assert [day.total.pushes for day in await accounts.read_accounts([first, first + timedelta(days=2)])] == [0, 1]
