"""The upgrade of an index that 0.1.0 wrote, and a fleet in which 0.1.0 still runs."""

import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from crossmount.errors import IndexRefusedError, InvalidInputError
from crossmount.index import Keys, LayerKnowledge, MemoryMountIndex, RedisMountIndex, Sighting, open_index
from crossmount.maintenance.repair import OldFlag, UpgradeReport, upgrade_index
from support.index_kit import keys_that_stay, layer, repo
from support.links import async_link
from support.places import Place
from support.servers import Server

KEYS = Keys()
A, B, DEST, OTHER = repo("team/a"), repo("team/b"), repo("team/dest"), repo("other.example/x")
ONE, TWO, THREE = layer(1), layer(2), layer(3)
LIFE = 14 * 24 * 3600


def record_as_before(
    client: Any, digest: str, *places: Any, size: int | None = None, must_mount: bool = False
) -> None:
    """Write what record.lua of 0.1.0 wrote."""
    flags = f"crossmount:default:{{{digest}}}:flags"
    for place in places:
        key = f"crossmount:default:{{{digest}}}:sources:{place.registry}"
        client.sadd(key, place.name)
        client.expire(key, LIFE)
        client.hset(flags, f"@{place.registry}", int(time.time()) + LIFE)
    if size is not None:
        client.hset(flags, "size", size)
    if must_mount:
        client.hset(flags, "must_mount", "1")
        client.persist(flags)
    else:
        client.expire(flags, LIFE)


@pytest.fixture
async def index(valkey: Server) -> AsyncIterator[RedisMountIndex]:
    """Give an index on an empty server."""
    async with RedisMountIndex(async_link(valkey.unix_url)) as made:
        yield made


async def test_old_flags_are_carried_over_once(any_place: Place) -> None:
    """Each flag of 0.1.0 becomes a key of its own; a dry run changes nothing, a second run finds none."""
    with any_place.client() as client:
        for digest in (ONE, TWO):
            record_as_before(client, digest, A, size=5, must_mount=True)
        record_as_before(client, THREE, A, OTHER)
        async with open_index(any_place.operator_url) as index:
            assert not await index.must_mount(ONE)
            listed = await upgrade_index(index, dry_run=True)
            found = tuple(OldFlag(layer=each, size=5, sources=(A,)) for each in sorted([ONE, TWO]))
            assert listed == UpgradeReport(done="nothing", flags=2, found=found, looked_at=3)
            assert not await index.must_mount(ONE)
            done = await upgrade_index(index)
            assert (done.flags, done.found) == (2, listed.found)
            assert [await index.must_mount(each) for each in (ONE, TWO, THREE)] == [True, True, False]
            assert (await upgrade_index(index)).flags == 0
        assert b"0.1.0" in client.hget(KEYS.must_mount(ONE), "why")
        assert keys_that_stay(client) == []


async def test_an_operator_chooses_which_old_flags_count(any_place: Place) -> None:
    """Named layers alone are carried over, and what is left can be removed: then nothing of it counts any more."""
    with any_place.client() as client:
        for digest in (ONE, TWO):
            record_as_before(client, digest, A, size=5, must_mount=True)
        async with open_index(any_place.operator_url) as index:
            done = await upgrade_index(index, only=[ONE, THREE])
            assert ([each.layer for each in done.found], done.looked_at) == ([ONE], 2)
            assert [await index.must_mount(each) for each in (ONE, TWO)] == [True, False]
            gone = await upgrade_index(index, clear=True)
            assert (gone.done, [each.layer for each in gone.found]) == ("cleared", [TWO])
            assert [await index.must_mount(each) for each in (ONE, TWO)] == [True, False]
            assert (await upgrade_index(index, dry_run=True)).flags == 0
            assert (await index.look_up([TWO], DEST)).of(TWO) == LayerKnowledge((A,), size=5)


async def test_an_old_flag_is_shown_with_all_that_is_known_of_its_layer(
    valkey: Server, index: RedisMountIndex
) -> None:
    """A flag is shown with the repositories on all registries; a layer of which nothing else is left has none."""
    with valkey.client() as client:
        record_as_before(client, ONE, A, OTHER, size=5, must_mount=True)
        record_as_before(client, TWO, must_mount=True)
    found = {each.layer: each for each in (await upgrade_index(index, dry_run=True)).found}
    assert found == {
        ONE: OldFlag(layer=ONE, size=5, sources=(OTHER, A)),
        TWO: OldFlag(layer=TWO, size=None, sources=()),
    }


async def test_a_pusher_may_not_upgrade(restricted: Place) -> None:
    """A pusher's upgrade is an error that names the user who may; an index in memory has none to upgrade."""
    async with open_index(restricted.url) as index:
        with pytest.raises(IndexRefusedError, match="crossmount-operator"):
            await upgrade_index(index)
    with pytest.raises(InvalidInputError, match="not on a server"):
        await upgrade_index(MemoryMountIndex())


async def test_what_the_first_version_wrote_is_read_on(valkey: Server, index: RedisMountIndex) -> None:
    """Layers of 0.1.0 are known with their size and their registries, before anything is upgraded."""
    with valkey.client() as client:
        record_as_before(client, ONE, A, size=5)
        record_as_before(client, TWO, A, OTHER, size=6)
    known = await index.look_up([ONE, TWO], DEST)
    assert known.of(ONE) == LayerKnowledge((A,), size=5)
    assert known.of(TWO) == LayerKnowledge((A,), elsewhere=("other.example",), size=6)
    assert await index.locations(TWO) == (OTHER, A)


async def test_a_layer_is_upgraded_as_it_is_recorded(valkey: Server, index: RedisMountIndex) -> None:
    """A recording on the home registry removes flags that say no more than the set, and keeps the size."""
    with valkey.client() as client:
        record_as_before(client, ONE, A, size=5)
        await index.record([Sighting(ONE, B)])
        assert not client.exists(KEYS.flags(ONE))
    assert (await index.look_up([ONE], DEST)).of(ONE) == LayerKnowledge((A, B), size=5)


async def test_a_fleet_of_both_versions_shares_its_sources(valkey: Server, index: RedisMountIndex) -> None:
    """What either version records, the other mounts from; the older one ignores the member that is the size."""
    await index.record([Sighting(ONE, A, size=5)])
    with valkey.client() as client:
        record_as_before(client, ONE, B, size=5)  # an old pusher, after a new one
        assert client.smembers(KEYS.sources(ONE, "r.example")) == {b"team/a", b"team/b", b"=5"}
        assert (await index.look_up([ONE], DEST)).of(ONE) == LayerKnowledge((A, B), size=5)
        client.srem(KEYS.sources(ONE, "r.example"), "team/a", "team/b")  # an old pusher forgets both
        assert (await index.look_up([ONE], DEST)).of(ONE).sources == ()
        await index.forget(ONE, A)
        assert not client.exists(KEYS.sources(ONE, "r.example"), KEYS.flags(ONE))
