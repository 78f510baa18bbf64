"""Deletions that an index remembers."""

from collections.abc import AsyncIterator

import pytest

from crossmount._expiring import ExpiringSet
from crossmount.index import GuardedIndex, Keys, MemoryMountIndex, RedisMountIndex
from crossmount.index.adapt import FourMethodIndex
from crossmount.index.exclusions import DELETION_SECONDS, DELETIONS_MAX, RemembersDeletions
from crossmount.oci import Digest, Repository
from support.index_kit import Clock, CountingLink, layer, repo
from support.links import async_link
from support.servers import Server

ONE, TWO = layer(1), layer(2)
A, B, DEST = repo("team/a"), repo("team/b"), repo("team/dest")


@pytest.fixture(params=["memory", "valkey", "redis7"])
async def index(request: pytest.FixtureRequest) -> AsyncIterator[GuardedIndex]:
    """Give each kind of index that remembers deletions."""
    if request.param == "memory":
        yield GuardedIndex(MemoryMountIndex())
        return
    async with RedisMountIndex(async_link(request.getfixturevalue(request.param).url)) as opened:
        yield GuardedIndex(opened)


async def test_a_deletion_is_remembered_until_it_is_cleared(index: GuardedIndex) -> None:
    """After a deletion the repository is no source, and a look-up for it says so until a client brings it back."""
    await index.add_source(ONE, DEST)
    await index.add_source(ONE, A)
    await index.record_deletion(ONE, DEST)
    found = await index.look_up([ONE, TWO], DEST, deletions=True)
    assert found.of(ONE).deleted
    assert not found.of(ONE).in_dest
    assert found.of(ONE).sources == (A,)
    assert not found.of(TWO).deleted
    assert not (await index.look_up([ONE], B, deletions=True)).of(ONE).deleted
    assert not (await index.look_up([ONE], DEST)).of(ONE).deleted
    await index.clear_deletion(ONE, DEST)
    assert not (await index.look_up([ONE], DEST, deletions=True)).of(ONE).deleted


async def test_a_deletion_is_read_in_the_same_round_trip(valkey: Server) -> None:
    """A look-up with deletions is one round trip for all layers."""
    link = CountingLink(async_link(valkey.url))
    async with RedisMountIndex(link) as index:
        await index.record_deletion(TWO, DEST)
        link.runs.clear()
        found = await index.look_up([ONE, TWO], DEST, deletions=True)
        assert [len(run) for run in link.runs] == [10]
        assert [found.of(each).deleted for each in (ONE, TWO)] == [False, True]


async def test_a_deletion_ends_after_a_day(valkey: Server) -> None:
    """The key expires a day after the last deletion, and is bounded."""
    keys = Keys()
    async with RedisMountIndex(async_link(valkey.url)) as index:
        await index.record_deletion(ONE, DEST)
        with valkey.client() as client:
            key = keys.deleted(ONE, DEST.registry)
            assert DELETION_SECONDS - 5 < client.ttl(key) <= DELETION_SECONDS
            client.sadd(key, *(f"team/{number}" for number in range(DELETIONS_MAX - 1)))
            await index.record_deletion(ONE, A)
            assert client.scard(key) == DELETIONS_MAX
            assert client.sismember(key, A.name)


def test_one_process_remembers_so_many_for_a_day() -> None:
    """The memory of one process is bounded, and forgets after a day."""
    clock = Clock(0.0)
    here = ExpiringSet[tuple[Digest, Repository]](DELETION_SECONDS, limit=2, clock=clock)
    for number, place in enumerate((A, B, DEST)):
        clock.now = float(number)
        here.add((ONE, place))
    clock.now = 3.0
    assert [(ONE, place) in here for place in (A, B, DEST)] == [False, True, True]
    clock.now = DELETION_SECONDS + 1.0
    assert (ONE, B) not in here


async def test_an_index_of_four_methods_remembers_none() -> None:
    """An index that cannot remember deletions is used as before."""
    four = FourMethodIndex(MemoryMountIndex())
    assert not isinstance(four, RemembersDeletions)
    index = GuardedIndex(four)
    await index.add_source(ONE, A)
    await index.record_deletion(ONE, DEST)
    await index.clear_deletion(ONE, DEST)
    assert (await index.look_up([ONE], DEST, deletions=True)).of(ONE).sources == (A,)
