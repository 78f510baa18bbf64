"""Lists of all entries of an index, in memory and on servers."""

from contextlib import aclosing
from dataclasses import replace

import pytest

import redis
from crossmount.errors import IndexRefusedError, InvalidInputError
from crossmount.index import Keys, MemoryMountIndex, RedisMountIndex, Sighting, adapt, open_index
from crossmount.index import blocking as blocking_index
from crossmount.index.entries import NAMES_MAX, entries_of
from crossmount.index.protocol import LayerEntry, RegistrySources, Restorable
from crossmount.index.redis_index import TTL_SECONDS
from crossmount.oci import Repository
from support.index_kit import TTL, Clock, FourMethods, about, age_keys, keys_that_stay, layer, repo
from support.links import async_link
from support.places import Place
from support.servers import Server

KEYS = Keys()
ONE, TWO, THREE = layer(1), layer(2), layer(3)
A, B, OTHER = repo("team/a"), repo("team/b"), Repository.parse("[::1]:5000/x")
SEEN = [
    Sighting(ONE, A, size=7),
    Sighting(ONE, B),
    Sighting(ONE, OTHER),
    Sighting(TWO, A, must_mount=True),
]
KNOWN = [
    LayerEntry(
        layer=ONE,
        registries={
            "[::1]:5000": RegistrySources(("x",), TTL),
            "r.example": RegistrySources(("team/a", "team/b"), TTL),
        },
        size=7,
    ),
    LayerEntry(layer=TWO, registries={"r.example": RegistrySources(("team/a",), TTL)}, must_mount=True),
]


async def listed(index: object) -> list[LayerEntry]:
    """Return all entries, in order of layer, with lives rounded."""
    async with aclosing(entries_of(index)) as entries:
        return about([entry async for entry in entries])


def ordered(entries: list[LayerEntry]) -> list[LayerEntry]:
    """Return entries in order of layer."""
    return sorted(entries, key=lambda entry: entry.layer)


async def test_all_is_listed_from_every_place(any_place: Place) -> None:
    """Every layer is listed with its sources, their life, its size and flag, from every server of a Cluster."""
    clock = Clock()
    async with RedisMountIndex(async_link(any_place.operator_url), keys=KEYS, ttl=TTL, clock=clock) as index:
        await index.record([*SEEN, *(Sighting(layer(number), A) for number in range(100, 400))])
        await index.record_traits("r.example", (await index.look_up([], A)).traits)
    async with RedisMountIndex(async_link(any_place.operator_url), keys=KEYS, clock=clock) as index:
        found = await listed(index)
    assert [entry for entry in found if entry.layer in {ONE, TWO}] == ordered(KNOWN)
    assert len(found) == 302


@pytest.mark.parametrize("flavour", ["async", "blocking", "over another"])
async def test_an_index_in_memory_is_listed_too(flavour: str) -> None:
    """An index in memory is listed in both flavours, with its backing index."""
    clock = Clock()
    memory = MemoryMountIndex(ttl=TTL, clock=clock)
    await memory.record(SEEN)
    if flavour == "blocking":
        blocking = blocking_index.MemoryMountIndex(ttl=TTL, clock=clock)
        blocking.record(SEEN)
        assert await listed(blocking_index.threaded(blocking)) == ordered(KNOWN)
    elif flavour == "over another":
        above = MemoryMountIndex(memory, clock=clock)
        await above.record([Sighting(THREE, A)])
        assert [entry.layer for entry in await listed(above)] == sorted([ONE, TWO, THREE])
    else:
        assert await listed(memory) == ordered(KNOWN)
    clock.now += TTL
    assert [entry.layer for entry in await listed(memory)] == [TWO]  # the flag alone


async def test_an_index_over_a_server_lists_both(valkey: Server) -> None:
    """The entries in memory and those on the server are listed."""
    async with open_index(valkey.unix_url) as below:
        await below.record([Sighting(ONE, A)])
        above = MemoryMountIndex(below)
        await above.record([Sighting(TWO, A)])
        assert {entry.layer for entry in await listed(above)} == {ONE, TWO}


async def test_an_index_that_cannot_be_listed_is_an_error() -> None:
    """A list of an index with only four methods is an error, not an empty list."""
    with pytest.raises(InvalidInputError, match="cannot be listed"):
        await listed(FourMethods())
    assert not isinstance(adapt(FourMethods()), Restorable)


async def test_sources_without_their_flags_are_listed(redis_server: Server) -> None:
    """If a full server evicted the flags of a layer, its sources are still listed with their life."""
    async with open_index(redis_server.unix_url) as index:
        await index.record([Sighting(ONE, A, size=3), Sighting(ONE, OTHER)])
        with redis_server.client() as raw:
            raw.delete(KEYS.flags(ONE))
            raw.expire(KEYS.sources(ONE, "r.example"), 100)
        found = {name: some for entry in await listed(index) for name, some in entry.registries.items()}
    assert {name: some.names for name, some in found.items()} == {
        "[::1]:5000": ("x",),
        "r.example": ("team/a",),
    }
    assert found["r.example"].seconds_left <= 100 < TTL_SECONDS - 60 < found["[::1]:5000"].seconds_left


async def test_expired_and_hostile_values_are_not_listed(valkey: Server) -> None:
    """Expired sources, invalid names, keys of wrong types and other namespaces are not listed."""
    clock = Clock()
    async with RedisMountIndex(async_link(valkey.unix_url), keys=KEYS, ttl=TTL, clock=clock) as index:
        await index.record([Sighting(ONE, A), Sighting(TWO, B)])
        with redis.Redis.from_url(valkey.unix_url) as raw:
            raw.sadd(KEYS.sources(ONE, "r.example"), "UPPER", "../x", b"\xff", "team/c")
            raw.hset(KEYS.flags(ONE), mapping={"@NO": "9" * 12, "@x.example": "soon", "size": "-1", "odd": "x"})
            raw.expire(KEYS.flags(ONE), TTL)
            raw.sadd(KEYS.sources(ONE, "r.example"), "=many", "=-1")
            raw.delete(KEYS.sources(TWO, "r.example"))
            raw.set(KEYS.sources(TWO, "r.example"), "x", ex=600)
            raw.set(KEYS.flags(THREE), "x", ex=600)
            raw.sadd(Keys("other").sources(THREE, "r.example"), "team/a")
            raw.expire(Keys("other").sources(THREE, "r.example"), 600)
            raw.sadd(f"crossmount:default:{{{THREE}}}:sources:NO/REGISTRY", "team/a")
            raw.expire(f"crossmount:default:{{{THREE}}}:sources:NO/REGISTRY", 600)
            assert [entry.registries for entry in await listed(index)] == [
                {"r.example": RegistrySources(("team/a", "team/c"), TTL)}
            ]
            clock.now += TTL
            age_keys(raw, TTL)
            assert await listed(index) == []


async def test_a_bloated_set_is_read_in_part(valkey: Server) -> None:
    """Only a limited number of members of a set is read."""
    async with open_index(valkey.unix_url) as index:
        await index.record([Sighting(ONE, A)])
        with redis.Redis.from_url(valkey.unix_url) as raw:
            raw.sadd(KEYS.sources(ONE, "r.example"), *(f"r/{number}" for number in range(5000)))
        (entry,) = await listed(index)
    assert entry.source_count == NAMES_MAX


@pytest.mark.parametrize("kind", ["memory", "valkey", "redis7", "cluster"])
async def test_entries_are_restored_as_they_were(kind: str, request: pytest.FixtureRequest) -> None:
    """A restored index has the same entries with the same life, also flags of layers without sources."""
    clock = Clock()
    place = None if kind == "memory" else request.getfixturevalue(kind)
    index = (
        MemoryMountIndex(ttl=TTL, clock=clock)
        if place is None
        else RedisMountIndex(async_link(place.operator_url), keys=KEYS, ttl=TTL, clock=clock)
    )
    entries = [*KNOWN, LayerEntry(layer=THREE, must_mount=True)]
    await index.restore([*entries, LayerEntry(layer=layer(9), size=1)])
    assert await listed(index) == ordered(entries)
    assert await index.must_mount(THREE)
    assert not await index.must_mount(ONE)
    if place is not None:
        with place.client() as raw:
            assert keys_that_stay(raw) == []
    await index.aclose()


@pytest.mark.parametrize("kind", ["memory", "valkey"])
async def test_a_restore_merges_and_shortens_nothing(kind: str, valkey: Server) -> None:
    """A restore keeps known sources, longer lives and flags, and exceeds no usual life."""
    clock = Clock()
    index = (
        MemoryMountIndex(ttl=TTL, clock=clock)
        if kind == "memory"
        else RedisMountIndex(async_link(valkey.unix_url), keys=KEYS, ttl=TTL, clock=clock)
    )
    await index.record([Sighting(ONE, A, size=7, must_mount=True)])
    await index.restore(
        [
            LayerEntry(layer=ONE, registries={"r.example": RegistrySources(("team/b",), 10)}),
            LayerEntry(layer=TWO, registries={"r.example": RegistrySources(("team/b",), TTL * 1000)}),
            LayerEntry(layer=THREE, registries={"r.example": RegistrySources(("team/b",), 10)}),
        ]
    )
    assert await listed(index) == ordered(
        [
            LayerEntry(
                layer=ONE,
                registries={"r.example": RegistrySources(("team/a", "team/b"), TTL)},
                size=7,
                must_mount=True,
            ),
            LayerEntry(layer=TWO, registries={"r.example": RegistrySources(("team/b",), TTL)}),
            LayerEntry(layer=THREE, registries={"r.example": RegistrySources(("team/b",), 10)}),
        ]
    )
    await index.aclose()


async def test_a_pusher_may_restore_and_not_list(restricted: Place) -> None:
    """The access list lets pushers restore and not list, and the error says who can list."""
    async with open_index(restricted.url) as index:
        await index.restore([replace(entry, must_mount=False) for entry in KNOWN])
        with pytest.raises(IndexRefusedError, match="crossmount-operator"):
            await listed(index)
