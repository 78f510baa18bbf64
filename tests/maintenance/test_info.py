"""What an index holds is counted, or estimated."""

import pytest

import crossmount
import redis
from crossmount.asyncio import IndexInfo, RegistryInfo, index_info
from crossmount.errors import IndexRefusedError, InvalidInputError
from crossmount.fleet.lease_store import Lease, LeaseStore
from crossmount.index import (
    Keys,
    MemoryMountIndex,
    RedisMountIndex,
    RegistryTraits,
    Sighting,
    open_index,
    widen,
)
from crossmount.index.backing_server import server_of
from crossmount.index.entry import LayerEntry, RegistrySources
from crossmount.index.redis_index import TTL_SECONDS
from crossmount.maintenance.layer_counts import LayerCounts
from crossmount.oci import Repository
from support.index_kit import Clock, FourMethods, layer, repo
from support.links import async_link
from support.places import Place
from support.servers import Server, StartServer

ONE, TWO, THREE = layer(1), layer(2), layer(3)
A, B, OTHER = repo("team/a"), repo("team/b"), repo("other.example:5000/x")
HOUR = 3600
SEEN = [
    Sighting(ONE, A, size=1000),
    Sighting(ONE, B),
    Sighting(ONE, OTHER),
    Sighting(TWO, A, must_mount=True),
]
REGISTRIES = {
    "r.example": RegistryInfo(layers=2, sources=3, size=1000),
    "other.example:5000": RegistryInfo(layers=1, sources=1, size=1000),
}


async def fill(index: RedisMountIndex) -> None:
    """Record some, flag some, lease one, count look-ups."""
    await index.look_up([ONE, TWO], A)
    await index.record(SEEN)
    await index.look_up([ONE, TWO], A)
    await index.restore([LayerEntry(layer=THREE, size=5, must_mount=True)])
    await index.record([Sighting(ONE, A)])
    await index.record_traits("r.example", RegistryTraits(mounts=True))
    server = server_of(index)
    assert server is not None
    await LeaseStore(server, life=3600).renew([Lease("r.example", ONE, "{}")])


async def test_all_is_counted_in_every_place(any_place: Place) -> None:
    """Layers, sources, bytes, registries, flags, leases, keys, hit rate; on a Cluster of all servers together."""
    index = open_index(any_place.url)
    assert isinstance(index, RedisMountIndex)
    await fill(index)
    await index.aclose()
    async with open_index(any_place.url, namespace="other") as foreign:
        if "crossmount:" not in any_place.url:  # the access list walls it off
            await foreign.record([Sighting(layer(9), A)])
    async with open_index(any_place.operator_url) as looking:
        found = await index_info(looking)
    assert (found.layers, found.sources, found.size, found.unsized) == (3, 4, 1005, 1)
    assert (found.flagged, found.stranded, found.leases) == (2, 1, 1)
    assert found.registries == REGISTRIES
    assert list(found.registries) == ["r.example", "other.example:5000"]
    assert (found.asked, found.known, found.hit_rate) == (4, 2, 0.5)
    assert found.keys == 3 + 3 + 1 + 1 + 1  # flags, sources, lease, traits, look-ups
    assert found.memory is not None
    assert found.server_memory is not None
    assert 9 * 50 < found.memory < found.server_memory
    assert not found.estimated
    assert found.newest == found.median == found.oldest == 0


async def test_an_index_in_memory_is_counted_as_far_as_it_goes() -> None:
    """There is no server to tell of."""
    clock = Clock()
    index = MemoryMountIndex(clock=clock)
    await index.record(SEEN)
    clock.now += 5 * HOUR
    found = await index_info(index)
    assert (found.layers, found.sources, found.size, found.flagged) == (2, 4, 1000, 1)
    assert found.registries == REGISTRIES
    assert (found.newest, found.oldest) == (5 * HOUR, 5 * HOUR)
    assert (found.keys, found.memory, found.server_memory, found.hit_rate) == (None, None, None, None)


async def test_an_empty_index_holds_nothing(valkey: Server) -> None:
    """Zeros, and no age."""
    async with open_index(valkey.unix_url) as index:
        for sample in (None, 100):
            found = await index_info(index, sample=sample)
            assert (found.layers, found.keys, found.memory, found.hit_rate) == (0, 0, 0, None)
            assert (found.newest, found.median, found.oldest) == (None, None, None)


async def test_how_old_layers_are_says_when_they_were_renewed_last(valkey: Server) -> None:
    """By their time to live: the newest, the one in the middle, the oldest."""
    clock = Clock()
    async with RedisMountIndex(async_link(valkey.unix_url), clock=clock) as index:
        for number in range(5):
            await index.record([Sighting(layer(number), A), Sighting(layer(number), OTHER)])
            clock.now += HOUR
        await index.record([Sighting(layer(0), A)])
        clock.now += HOUR
        found = await index_info(index, clock=clock)
    assert (found.newest, found.median, found.oldest) == (HOUR, 3 * HOUR, 5 * HOUR)


@pytest.mark.parametrize("kind", ["valkey", "redis7", "cluster"])
async def test_a_sample_stands_for_the_whole(kind: str, request: pytest.FixtureRequest) -> None:
    """A part of the keys is looked at, other tenants' too, and the rest is estimated within a few percent."""
    place: Place = request.getfixturevalue(kind)
    async with (
        RedisMountIndex(async_link(place.operator_url), keys=Keys()) as index,
        RedisMountIndex(async_link(place.url if kind != "cluster" else place.operator_url), keys=Keys()) as also,
    ):
        many = [Sighting(layer(number), A, size=1000, must_mount=not number % 10) for number in range(12_000)]
        for start in range(0, len(many), 1000):
            await index.record(many[start : start + 1000])
            if kind != "cluster":
                await RedisMountIndex(also.link, keys=Keys("other")).record(many[start : start + 500])
        exact = await index_info(index)
        found = await index_info(index, sample=6000)
    assert exact.layers == 12_000
    assert found.estimated
    assert 6000 <= found.looked_at < 10_000
    assert exact.keys is not None
    for estimated, real in (
        (found.layers, 12_000),
        (found.sources, 12_000),
        (found.size, 12_000_000),
        (found.keys, exact.keys),
        (found.registries["r.example"].layers, 12_000),
    ):
        assert estimated == pytest.approx(real, rel=0.15)
    assert found.flagged == pytest.approx(1200, rel=0.4)
    assert found.memory == pytest.approx(exact.memory, rel=0.2)


async def test_a_sample_of_everything_is_no_estimate(valkey: Server) -> None:
    """What was all looked at is counted."""
    async with open_index(valkey.unix_url) as index:
        await index.record(SEEN)
        assert not (await index_info(index, sample=10_000)).estimated
        with pytest.raises(InvalidInputError, match="at least 1"):
            await index_info(index, sample=0)


async def test_a_pusher_is_told_who_may_look(restricted: Place) -> None:
    """The access list keeps SCAN from pushers, and the error names the user who has it."""
    async with open_index(restricted.url) as index:
        with pytest.raises(IndexRefusedError, match="crossmount-operator in deploy"):
            await index_info(index)


@pytest.mark.parametrize(
    ("forbidden", "memory", "server_memory"), [("-memory|usage", False, True), ("-info", True, False)]
)
async def test_what_a_server_does_not_tell_is_not_known(
    start_server: StartServer, forbidden: str, memory: bool, server_memory: bool
) -> None:
    """Some do not allow to ask for memory; everything else is counted all the same."""
    server = start_server()
    with redis.Redis.from_url(server.unix_url) as raw:
        raw.execute_command("ACL", "SETUSER", "default", forbidden)
    async with open_index(server.unix_url) as index:
        await index.record(SEEN)
        found = await index_info(index)
    assert found.layers == 2
    assert (found.memory is not None) is memory
    assert (found.server_memory is not None) is server_memory


async def test_an_index_that_cannot_be_listed_says_so() -> None:
    """It is not told as an empty one."""
    with pytest.raises(InvalidInputError, match="cannot be listed"):
        await index_info(widen(FourMethods()))


def test_the_blocking_flavour_counts_too(valkey: Server) -> None:
    """On a server and in memory."""
    for url in (valkey.unix_url, "memory:"):
        with crossmount.open_index(url) as index:
            index.record(SEEN)
            found = crossmount.index_info(index)
            assert isinstance(found, IndexInfo)
            assert (found.layers, found.sources, found.registries) == (2, 4, REGISTRIES)


def test_a_census_is_flat(monkeypatch: pytest.MonkeyPatch) -> None:
    """Registries past a bound are not told apart, and ages are counted to the minute."""
    monkeypatch.setattr("crossmount.maintenance.layer_counts.REGISTRIES_MAX", 3)
    census = LayerCounts()
    for number in range(10):
        held = {f"r{number}.example": RegistrySources(("a",), TTL_SECONDS - number)}
        census.add(LayerEntry(layer=layer(number), registries=held))
    assert (census.layers, len(census.by_registry()), len(census._ages)) == (10, 3, 1)
    census.add(LayerEntry(layer=layer(99), registries={"r0.example": RegistrySources(("a",), 10**12)}))
    assert census.ages()[0] == 0


def test_repositories_of_docker_hub_count_as_one_registrys() -> None:
    """However they are spelled."""
    with crossmount.open_index("memory:") as index:
        index.add_source(ONE, Repository.parse("alpine"))
        index.add_source(ONE, Repository.parse("index.docker.io/team/a"))
        assert crossmount.index_info(index).registries == {"docker.io": RegistryInfo(layers=1, sources=2, size=0)}
