"""The accounts in an index: written along with a record, added once, and bounded."""

import os
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

import redis
from crossmount.errors import IndexFailedError, IndexRefusedError, IndexUnavailableError
from crossmount.index import GuardedIndex, Keys, MemoryMountIndex, RedisMountIndex, Sighting, accounts
from crossmount.index import blocking as blocking_index
from crossmount.index.accounts import SAVINGS_SECONDS, AccountQueue, accounts_of
from crossmount.redis.link import Link
from crossmount.redis.replies import Command
from crossmount.savings import AccountEntry, LayerIncrement, Tally
from crossmount.savings.accounts import OTHER
from support.cluster import Cluster
from support.index_kit import CountingLink, FourMethods, keys_that_stay, layer, repo
from support.links import async_link, blocking_link
from support.savings import FIRST, SEEN, entries, entry, total, week, written
from support.servers import Server

KEYS = Keys()
A, DEST = repo("team/a"), repo("team/dest")


class Unanswered:
    """A link whose commands are sent, and whose next answers are lost."""

    def __init__(self, link: Link, lost: int) -> None:
        self.where = link.where
        self._link = link
        self._lost = lost

    async def run(self, commands: Sequence[Command]) -> list[Any]:
        """Run commands; raise in place of an answer that is lost."""
        replies = await self._link.run(commands)
        if self._lost and len(commands) > 1:
            self._lost -= 1
            raise IndexUnavailableError("the answer is lost")
        return replies

    async def servers(self) -> Sequence[Link]:
        """Return the servers."""
        return await self._link.servers()

    async def aclose(self) -> None:
        """Close the link."""
        await self._link.aclose()


async def test_accounts_are_written_with_the_next_record(link: CountingLink) -> None:
    """Accounting sends nothing by itself: it goes along in the round trip of a record."""
    index = RedisMountIndex(link)
    await index.look_up([layer(1)], DEST)
    await written(index, entry(1))
    link.runs.clear()
    index.account(entry(2, bytes_mounted=5, pushes=1))
    assert link.runs == []
    await index.record(SEEN)
    assert len(link.runs) == 1
    assert (await week(index)).total == Tally(bytes_mounted=5, pushes=1)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pushed=entries())
async def test_the_reader_gives_the_sum_of_what_pushers_did(
    valkey: Server, monkeypatch: pytest.MonkeyPatch, pushed: list[AccountEntry]
) -> None:
    """Whoever writes, in whatever batches: the totals by day are those of the pushes, also where rows are full."""
    monkeypatch.setattr(accounts, "ROWS_MAX", 6)
    monkeypatch.setattr(accounts, "OTHERS_MAX", 2)
    valkey.flush()
    async with (
        RedisMountIndex(async_link(valkey.unix_url)) as one,
        RedisMountIndex(async_link(valkey.unix_url)) as two,
    ):
        for number, push in enumerate(pushed):
            writer = two if number % 3 else one
            writer.account(push)
            if number % 4 == 0:
                await writer.record(SEEN)
        for writer in (one, two):
            await writer.record(SEEN)
            await writer.record(SEEN)
        savings = await week(one)
    for day, tally in savings.by_day.items():
        assert tally == total(push for push in pushed if push.day == day)
    assert all(len(day.by) <= 6 + 2 + 1 for day in savings.days)
    mounted = sum(each.size for push in pushed for each in push.increment.layers if each.fate == "mounted")
    assert sum(each.bytes_mounted for each in savings.most_mounted) == mounted


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pushed=entries(registries=2, prefixes=3))
async def test_the_order_does_not_matter_while_there_is_room(valkey: Server, pushed: list[AccountEntry]) -> None:
    """Pushes in reverse order give the same rows and layers, as the accounts in memory do."""
    seen = []
    for order in (pushed, pushed[::-1]):
        valkey.flush()
        async with RedisMountIndex(async_link(valkey.unix_url)) as index:
            for push in order:
                await written(index, push)
            savings = await week(index)
            seen.append((savings.by_row, savings.most_mounted, savings.most_uploaded_again))
    memory = MemoryMountIndex()
    memory.account(*pushed)
    savings = await week(memory)
    seen.append((savings.by_row, savings.most_mounted, savings.most_uploaded_again))
    assert seen[0] == seen[1] == seen[2]


async def test_the_largest_rows_stay(link: CountingLink, monkeypatch: pytest.MonkeyPatch) -> None:
    """A prefix with more than its share of the bytes has a row, however many small ones come before and after."""
    monkeypatch.setattr(accounts, "ROWS_MAX", 4)
    index = RedisMountIndex(link)
    number = iter(range(10_000))
    for turn in range(40):
        for each in range(5):
            await written(index, entry(next(number), prefix=f"small{5 * turn + each}", bytes_uploaded=10))
        await written(index, entry(next(number), prefix="late", bytes_mounted=200))
    (day,) = (await week(index, days=1)).days
    assert len(day.by) == 5
    assert day.by["r.example", "late"].bytes_mounted > 7000
    assert day.by["r.example", OTHER].bytes_uploaded >= 1900
    assert day.total == Tally(bytes_uploaded=2000, bytes_mounted=8000)


async def test_more_registries_than_rows_are_one_row(link: CountingLink, monkeypatch: pytest.MonkeyPatch) -> None:
    """Past the rows of single registries all is counted in one last row."""
    monkeypatch.setattr(accounts, "ROWS_MAX", 2)
    monkeypatch.setattr(accounts, "OTHERS_MAX", 1)
    index = RedisMountIndex(link)
    for number in range(9):
        await written(index, entry(number, registry=f"r{number}.example", blobs_uploaded=1))
    (day,) = (await week(index, days=1)).days
    assert len(day.by) == 4
    assert day.by[OTHER, OTHER].blobs_uploaded == 6
    assert day.total.blobs_uploaded == 9


async def test_the_layers_with_most_bytes_stay(link: CountingLink, monkeypatch: pytest.MonkeyPatch) -> None:
    """The layers of a day are cut to those with most bytes, and none counts more than it did."""
    monkeypatch.setattr(accounts, "LAYERS_MAX", 3)
    index = RedisMountIndex(link)
    for turn in range(4):
        for number in range(1, 13):
            seen = LayerIncrement(layer(number), number, "mounted")
            await written(index, entry(100 * turn + number, layers=[seen]))
    mounted = (await week(index)).most_mounted
    assert 3 <= len(mounted) <= 6
    assert {each.size for each in mounted} > {11, 12}
    assert all(each.mounted <= 4 for each in mounted)


async def test_an_id_is_added_once(link: CountingLink) -> None:
    """The same push, from two clients and on two days, is added once; the first one counts."""
    index = RedisMountIndex(link)
    await written(index, entry(1, blobs_mounted=3), entry(1, blobs_existing=3))
    await written(RedisMountIndex(link), entry(1, day=FIRST + timedelta(days=1), blobs_existing=3))
    assert (await week(index)).total == Tally(blobs_mounted=3)


async def test_a_lost_answer_counts_nothing_twice(link: CountingLink) -> None:
    """A write whose answer was lost is sent again, and is added once."""
    index = RedisMountIndex(Unanswered(link, 1))
    index.account(entry(1, pushes=1))
    with pytest.raises(IndexUnavailableError):
        await index.record(SEEN)
    await written(index, entry(2, pushes=1))
    assert (await week(index)).total == Tally(pushes=2)


async def test_a_refusal_never_fails_a_record(link: CountingLink, raw: "redis.Redis") -> None:
    """A value of another type in place of the accounts costs a few tries, and no sighting."""
    raw.set(KEYS.savings_pushes()[0], "x", ex=60)
    index = RedisMountIndex(link)
    await written(index, entry(1, pushes=1))
    for _ in range(4):
        await index.record(SEEN)
    link.runs.clear()
    await index.record(SEEN)
    assert [len(run) for run in link.runs] == [2]  # the registry and the sighting
    assert await index.sources(layer(1), DEST) == (A,)


async def test_a_refused_push_counts_later(link: CountingLink, raw: "redis.Redis") -> None:
    """A push whose write was refused is counted by the next record that is not."""
    raw.set(KEYS.savings_pushes()[0], "x", ex=60)
    index = RedisMountIndex(link)
    await written(index, entry(1, pushes=1))
    raw.delete(KEYS.savings_pushes()[0])
    await index.record([])
    assert (await week(index)).total == Tally(pushes=1)


async def test_a_full_server_refuses_accounts_alone(link: CountingLink, raw: "redis.Redis") -> None:
    """On a server without memory nothing of a push is added in part, and a guarded record goes on."""
    index = RedisMountIndex(link)
    await written(index, entry(1, pushes=1, bytes_mounted=5))
    raw.config_set("maxmemory", 1)
    try:
        index.account(entry(2, pushes=1, bytes_mounted=5))
        with pytest.raises(IndexRefusedError):
            await index.record(SEEN)
        await GuardedIndex(index).record(SEEN)
    finally:
        raw.config_set("maxmemory", 0)
    await index.record(SEEN)
    assert (await week(index)).total == Tally(pushes=2, bytes_mounted=10)


async def test_a_day_lives_for_400_days(link: CountingLink, raw: "redis.Redis") -> None:
    """All keys of the accounts expire."""
    index = RedisMountIndex(link)
    await written(index, entry(1, layers=[LayerIncrement(layer(1), 7, "gone")]))
    for key in (KEYS.savings(FIRST), KEYS.savings_layers(FIRST)):
        assert SAVINGS_SECONDS - 60 < raw.ttl(key) <= SAVINGS_SECONDS
    assert keys_that_stay(raw) == []


async def test_namespaces_have_their_own_accounts(link: CountingLink) -> None:
    """What is counted in one namespace is not read in another."""
    mine, other = RedisMountIndex(link, keys=Keys("mine")), RedisMountIndex(link, keys=Keys("other"))
    await written(mine, entry(1, pushes=1))
    assert (await week(mine)).total == Tally(pushes=1)
    assert (await week(other)).total == Tally()


async def test_several_names_of_a_registry_are_one_row(link: CountingLink, raw: "redis.Redis") -> None:
    """Pushes to a registry by any of its names are counted together, also from before the names were shared."""
    index = RedisMountIndex(link)
    await written(index, entry(1, registry="other.example", pushes=1))
    raw.hset(KEYS.same_registry(), "other.example", "r.example")
    raw.expire(KEYS.same_registry(), 60)
    later = RedisMountIndex(link)
    await written(later, entry(2, registry="r.example", pushes=1))
    assert (await week(later)).by_registry == {"r.example": Tally(pushes=2)}


async def test_after_an_outage_pushes_are_written_in_pieces(link: CountingLink) -> None:
    """Many queued pushes do not make one record long, and the oldest of too many are dropped."""
    index = RedisMountIndex(link)
    await index.look_up([layer(1)], DEST)
    index.account(*(entry(number, pushes=1) for number in range(300)))
    link.runs.clear()
    for _ in range(9):
        await index.record(SEEN)
    assert max(map(len, link.runs)) <= 32 + 3
    assert (await week(index)).total == Tally(pushes=256)
    assert index.take_unwritten() == []


def test_a_fork_does_not_count_what_its_parent_queued() -> None:
    """A child of a fork has the parent's queue, and leaves it to the parent."""
    process = [os.getpid()]
    queue = AccountQueue(lambda: process[0])
    queue.add([entry(1)])
    process[0] += 1
    queue.add([entry(2)])
    assert [each.id for _, each in queue.take()] == ["00000002"]


def test_an_index_of_the_other_flavour_keeps_accounts_too(valkey: Server) -> None:
    """A user's blocking index is found below what adapts it; an index without accounts counts nothing."""
    with blocking_index.RedisMountIndex(blocking_link(valkey.unix_url)) as index:
        for adapted in (
            blocking_index.inline(index),
            blocking_index.threaded(index),
            GuardedIndex(index.asynchronous),
        ):
            assert accounts_of(adapted) is not None
        GuardedIndex(blocking_index.threaded(index)).account(entry(1, pushes=1))
        index.record(SEEN)
        with valkey.client() as client:
            assert client.hlen(KEYS.savings(FIRST)) == 1
    assert accounts_of(FourMethods()) is None
    guarded = GuardedIndex(FourMethods())
    guarded.account(entry(1))
    assert guarded.take_unwritten() == ()


async def test_memory_over_an_index_counts_in_that_one(link: CountingLink) -> None:
    """In-process sources over an index in Redis use its accounts."""
    below = RedisMountIndex(link)
    index = MemoryMountIndex(below)
    index.account(entry(1, pushes=1))
    assert [each.id for each in index.take_unwritten()] == ["00000001"]
    index.account(entry(1, pushes=1))
    await below.record(SEEN)
    assert (await week(index)).total == Tally(pushes=1)


async def test_reading_fails_as_the_index_does(valkey: Server) -> None:
    """A reader hears that the index is down; one over an index without accounts has empty days."""
    index = GuardedIndex(RedisMountIndex(async_link("redis://127.0.0.1:1")))
    with pytest.raises(IndexFailedError):
        await week(index)
    assert (await week(GuardedIndex(FourMethods()))).total == Tally()
    async with RedisMountIndex(async_link(valkey.unix_url)) as real:
        await written(real, entry(1, pushes=1))
        assert (await week(GuardedIndex(real))).total == Tally(pushes=1)


async def test_on_a_cluster_a_silent_shard_of_the_accounts_fails_no_record(cluster: Cluster) -> None:
    """All keys of the accounts are in one slot, and a record goes on where that shard is silent."""
    shard = cluster.master_of(KEYS.savings(FIRST))
    elsewhere = next(number for number in range(1000) if cluster.master_of(KEYS.flags(layer(number))) is not shard)
    async with RedisMountIndex(async_link(cluster.url)) as index:
        index.account(entry(1, pushes=1, layers=[LayerIncrement(layer(1), 7, "gone")]))
        await index.record([Sighting(layer(elsewhere), A)])
        assert (await week(index)).total == Tally(pushes=1)
        shard.pause()
        index.account(entry(2, pushes=1))
        await index.record([Sighting(layer(elsewhere), A)])
        assert await index.sources(layer(elsewhere), DEST) == (A,)
        shard.resume()
    async with RedisMountIndex(async_link(cluster.url)) as again:
        assert (await week(again)).total.pushes in {1, 2}
