"""The parts of the page: shared readings, the rates of uploads, columns, numbers in words, and metrics."""

import asyncio
from dataclasses import replace
from datetime import date, timedelta

import pytest
from prometheus_client.parser import text_string_to_metric_families

from crossmount.dashboard import views
from crossmount.dashboard.charts import column_chart, columns
from crossmount.dashboard.pages import duration, percent
from crossmount.dashboard.reader import Refreshed
from crossmount.errors import IndexUnavailableError
from crossmount.fleet.active_uploads import ActiveUpload, UploadRates
from crossmount.fleet.lease import LeaseValue
from crossmount.oci import Digest, Repository
from crossmount.savings import LayerAccount, Tally
from support.dashboards import TODAY, AccountingIndex, Clock, site_over

DOWN = IndexUnavailableError("index at redis://user:secret@redis.example.com does not answer")


class Counted:
    """A read that counts its calls, and that a test holds up or makes fail."""

    def __init__(self) -> None:
        self.calls = 0
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.error: Exception | None = None

    async def __call__(self) -> int:
        """Return the number of the call."""
        self.calls += 1
        await self.go_on.wait()
        if self.error is not None:
            raise self.error
        return self.calls


def refreshed(read: Counted, clock: Clock, *, patience: float = 5.0) -> Refreshed[int]:
    """Return a value that is old after ten seconds."""
    return Refreshed(read, seconds=10.0, patience=patience, clock=clock, monotonic=clock)


async def test_many_readers_cost_one_read() -> None:
    """Readers that ask while a read is in progress share it, and its value is kept until it is old."""
    read, clock = Counted(), Clock()
    value = refreshed(read, clock)
    read.go_on.clear()
    waiting = [asyncio.create_task(value.get()) for _ in range(20)]
    await asyncio.sleep(0)
    read.go_on.set()
    assert {reading.value for reading in await asyncio.gather(*waiting)} == {1}
    assert (await value.get()).value == 1
    clock.now += 11
    assert (await value.get()).value == 2
    assert read.calls == 2


async def test_a_slow_read_does_not_hold_a_reader_up() -> None:
    """A reader waits for a limited time, then gets the value before, at first none; the end stops the read."""
    read, clock = Counted(), Clock()
    value = refreshed(read, clock, patience=0.0)
    read.go_on.clear()
    assert (await value.get()).value is None
    read.go_on.set()
    await until_read(value)
    clock.now += 11
    read.go_on.clear()
    assert (await value.get()).value == 1
    await value.aclose()
    await value.aclose()


async def test_a_slow_read_is_followed_by_a_long_rest() -> None:
    """A read that took a minute is repeated after ten minutes, not after ten seconds."""
    read, clock = Counted(), Clock()
    value = refreshed(read, clock, patience=0.0)
    read.go_on.clear()
    await value.get()
    await asyncio.sleep(0)
    clock.now += 60
    read.go_on.set()
    await until_read(value)
    clock.now += 590
    await value.get()
    assert read.calls == 1
    clock.now += 20
    await value.get()
    assert read.calls == 2
    await value.aclose()


async def test_a_failure_keeps_the_last_value_and_hides_secrets() -> None:
    """After a failed read the last value stays, with its time, and the trouble has no password."""
    read, clock = Counted(), Clock()
    value = refreshed(read, clock)
    first = await value.get()
    read.error = DOWN
    clock.now += 11
    failed = await value.get()
    assert (failed.value, failed.at) == (1, first.at)
    assert "does not answer" in failed.trouble
    assert "secret" not in failed.trouble
    read.error = None
    clock.now += 11
    assert (await value.get()).trouble == ""


async def test_a_defect_is_not_swallowed() -> None:
    """An error that is not crossmount's own reaches the reader."""
    read = Counted()
    read.error = ZeroDivisionError("defect")
    with pytest.raises(ZeroDivisionError):
        await refreshed(read, Clock()).get()


async def until_read(value: Refreshed[int]) -> None:
    """Wait until the read in progress has ended."""
    while (await value.get()).value is None:  # noqa: ASYNC110 its end has no event
        await asyncio.sleep(0)


def upload(sent: int | None, **details: object) -> ActiveUpload:
    """Return an upload of 1000 bytes that began at second 100."""
    holder = LeaseValue(
        token="t",
        holder="runner:1",
        dest=Repository("r.example", "a/b"),
        size=1000,
        since=90,
        taken=100,
        sent=sent,
    )
    waiter = replace(holder, token="w", holder="", dest=None, taken=None)
    return ActiveUpload(
        registry="r.example",
        layer=Digest.of(b"x"),
        holder=replace(holder, **details),  # type: ignore[arg-type]
        seconds_left=5.0,
        waiting=(waiter,),
    )


def test_a_rate_is_measured_from_one_look_to_the_next() -> None:
    """The first look has the mean since the beginning, later ones the rate of the last ten seconds."""
    rates = UploadRates()
    (first,) = rates.measure([upload(100)], 110.0)
    assert (first.rate, first.share, first.seconds, first.seconds_left) == (10.0, 0.1, 10.0, 90.0)
    assert (first.repository, first.pusher, first.waiting) == ("a/b", "runner:1", (("unknown", ""),))
    rates.measure([upload(200)], 115.0)
    (later,) = rates.measure([upload(500)], 125.0)
    assert later.rate == pytest.approx(400 / 15)  # since the last look before these seconds
    (stalled,) = rates.measure([upload(400)], 126.0)
    assert stalled.rate is not None
    assert stalled.rate >= 0
    assert rates.measure([], 127.0) == []


def test_what_a_pusher_does_not_say_is_unknown() -> None:
    """Without counted bytes, a size or a beginning there is no share, no rate and no time left."""
    rates = UploadRates()
    (silent,) = rates.measure([upload(None)], 110.0)
    assert (silent.share, silent.rate, silent.seconds_left) == (None, None, None)
    (stranger,) = rates.measure([upload(5, taken=None, since=0, size=0, holder="", dest=None)], 110.0)
    assert (stranger.seconds, stranger.rate, stranger.pusher, stranger.repository) == (None, None, "unknown", "")
    (early,) = rates.measure([upload(5, token="other", taken=200)], 110.0)
    assert (early.seconds, early.rate) == (0.0, None)


def test_many_days_are_shown_by_the_week() -> None:
    """A month has a column a day; a year has a column a week, whose sums are those of its days."""
    by_day = {TODAY - timedelta(days=back): Tally(bytes_uploaded=1) for back in range(364, -1, -1)}
    weeks = columns(by_day)
    assert sum(column.tally.bytes_uploaded for column in weeks) == 365
    assert (len(weeks), weeks[-1].label) == (53, "21 Nov to 27 Nov")
    month = dict(list(by_day.items())[-30:])
    assert [column.label for column in columns(month)][-1] == "27 Nov"
    assert columns({date(2027, 1, 1): Tally()})[0].label == "1 Jan 2027"


def test_a_chart_has_no_script_no_style_and_no_identifier() -> None:
    """The drawing is coloured by the page's style sheet alone, and has a rectangle to point at for each column."""
    days = {TODAY - timedelta(days=back): Tally(bytes_uploaded=back, bytes_mounted=5) for back in range(6, -1, -1)}
    svg = column_chart(columns(days))
    for word in ("<style", "style=", "<script", "onload", " id=", "xlink", "http://pygal"):
        assert word not in svg, word
    assert svg.count('class="column"') == 2 * 7
    assert svg.count("27 Nov") == 2


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.6, "1 min"),
        (200, "3 min 20 s"),
        (3600, "1 h"),
        (18_180, "5 h 3 min"),
        (187_200, "2 d 4 h"),
    ],
)
def test_durations_have_one_or_two_units(seconds: float, words: str) -> None:
    """A duration is as exact as a person wants it."""
    assert duration(seconds) == words


def test_a_share_never_seems_to_be_nothing_or_all() -> None:
    """Shares close to 0 and 1 are not rounded to them."""
    words = [percent(share).replace("\N{NO-BREAK SPACE}", " ") for share in (None, 0, 0.001, 0.5, 0.999, 1)]
    assert words == ["\N{EN DASH}", "0 %", "< 1 %", "50 %", "> 99 %", "100 %"]


def test_a_layer_counts_for_its_most_frequent_reason() -> None:
    """Causes are sorted by what they cost; layers that were uploaded once cost nothing."""
    layers = [
        LayerAccount(digest=Digest.of(b"a"), size=10, mounted=1, uploaded={"unknown": 3, "small": 1}),
        LayerAccount(digest=Digest.of(b"b"), size=1000, uploaded={"gone": 2}),
        LayerAccount(digest=Digest.of(b"c"), size=10**9, uploaded={"small": 1}),
        LayerAccount(digest=Digest.of(b"d"), size=10**9, mounted=4),
    ]
    assert [(cause.why, cause.size) for cause in views.causes(layers)] == [
        (views.REASONS["gone"][0], 1000),
        (views.REASONS["unknown"][0], 30),
    ]


async def exported(index: AccountingIndex, clock: Clock) -> dict[tuple[str, ...], float]:
    """Return the metrics of an index: values by name and labels, in order of the labels, without the namespace."""
    async with site_over(index, clock=clock, namespace="platform") as site:
        page = (await site.answer("metrics", b"")).body.decode()
    found = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            assert sample.labels.pop("namespace") == "platform"
            found[sample.name, *(value for _, value in sorted(sample.labels.items()))] = sample.value
    return found


async def test_the_metrics_are_those_of_the_accounts() -> None:
    """Counters are of this year by registry; gauges have the sums of today, of seven days and of all."""
    index, clock = AccountingIndex(), Clock()
    index.count(bytes_mounted=70, bytes_uploaded=30, ms_uploading=3000, blobs_mounted=2, pushes_without_index=1)
    index.count(days_ago=2, bytes_waited=7, ms_waiting=500, pushes=0, pushes_failed=1)
    index.count(days_ago=350, bytes_mounted=1000)
    found = await exported(index, clock)
    registry = "registry.example.com"
    assert found["crossmount_fleet_bytes_total", "mounted", registry] == 70
    assert found["crossmount_fleet_bytes_total", "waited", registry] == 7
    assert found["crossmount_fleet_blobs_total", "mounted", registry] == 2
    assert found["crossmount_fleet_pushes_total", registry, "succeeded"] == 1
    assert found["crossmount_fleet_pushes_total", registry, "failed"] == 1
    assert found["crossmount_fleet_pushes_without_index_total", registry] == 1
    assert found["crossmount_fleet_waiting_seconds_total", registry] == 0.5
    assert [found["crossmount_fleet_saved_bytes", period] for period in ("today", "7d", "ever")] == [70, 77, 1077]
    assert found["crossmount_fleet_saved_seconds", "today"] == 7.0
    assert found["crossmount_index_up",] == 1


async def test_an_outage_is_exported_as_such() -> None:
    """While the accounts cannot be read their metrics are missing: an old number would look like a new one."""
    index, clock = AccountingIndex(), Clock()
    index.count(bytes_mounted=70)
    index.outage = DOWN
    found = await exported(index, clock)
    assert not [name for name, *_ in found if name.startswith("crossmount_fleet_bytes")]


async def test_a_new_day_begins_at_nothing() -> None:
    """After midnight today's numbers are those of the new day, and yesterday's are in the week."""
    index, clock = AccountingIndex(), Clock()
    index.count(bytes_mounted=70)
    async with site_over(index, clock=clock) as site:
        await site.answer("metrics", b"")
        clock.now += 86_400
        index.count(days_ago=-1, bytes_mounted=5)
        page = (await site.answer("metrics", b"")).body.decode()
    assert 'crossmount_fleet_saved_bytes{namespace="default",period="today"} 5.0' in page
    assert 'crossmount_fleet_saved_bytes{namespace="default",period="7d"} 75.0' in page
