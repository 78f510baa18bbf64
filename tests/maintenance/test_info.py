"""The contents of an index are counted, or estimated."""

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
    adapt,
    open_index,
)
from crossmount.index.protocol import LayerEntry, RegistrySources, backing_server
from crossmount.index.redis_index import TTL_SECONDS
from crossmount.maintenance.layer_counts import LayerCounts
from crossmount.oci import Repository
from support.index_kit import Clock, FourMethods, age_keys, layer, repo
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
    """Record layers, set flags, take one lease, and look layers up."""
    await index.look_up([ONE, TWO], A)
    await index.record(SEEN)
    await index.look_up([ONE, TWO], A)
    await index.restore([LayerEntry(layer=THREE, must_mount=True)])
    await index.record([Sighting(ONE, A)])
    await index.record_traits("r.example", RegistryTraits(mounts=True))
    server = backing_server(index)
    assert server is not None
    await LeaseStore(server, life=3600).renew({Lease("r.example", ONE, "{}"): None})


async def test_everything_is_counted_on_every_topology(any_place: Place) -> None:
    """Layers, sources, bytes, registries, flags, leases, keys and hit rate are counted over all servers."""
    index = open_index(any_place.operator_url)
    assert isinstance(index, RedisMountIndex)
    await fill(index)
    await index.aclose()
    async with open_index(any_place.url, namespace="other") as foreign:
        if "crossmount:" not in any_place.url:  # the access list walls it off
            await foreign.record([Sighting(layer(9), A)])
    async with open_index(any_place.operator_url) as looking:
        found = await index_info(looking)
    assert (found.layers, found.sources, found.size, found.unsized) == (3, 4, 1000, 2)
    assert (found.flagged, found.stranded, found.leases) == (2, 1, 1)
    assert found.registries == REGISTRIES
    assert list(found.registries) == ["r.example", "other.example:5000"]
    assert (found.asked, found.known, found.hit_rate) == (4, 2, 0.5)
    assert found.keys == 1 + 3 + 2 + 1 + 1 + 1 + 1  # flags, sources, must-mount, lease, traits, …
    assert found.memory is not None
    assert found.server_memory is not None
    assert 9 * 50 < found.memory < found.server_memory
    assert not found.estimated
    assert found.newest == found.median == found.oldest == 0


async def test_an_index_in_memory_is_counted_as_far_as_it_goes() -> None:
    """An index in memory is counted, without the numbers of a server."""
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
    """An empty index has zero counts and no age."""
    async with open_index(valkey.unix_url) as index:
        for sample in (None, 100):
            found = await index_info(index, sample=sample)
            assert (found.layers, found.keys, found.memory, found.hit_rate) == (0, 0, 0, None)
            assert (found.newest, found.median, found.oldest) == (None, None, None)


async def test_ages_are_since_the_last_renewal(valkey: Server) -> None:
    """The ages of the newest, the median and the oldest layer follow from their times to live."""
    async with RedisMountIndex(async_link(valkey.unix_url)) as index:
        with valkey.client() as raw:
            for number in range(5):
                await index.record([Sighting(layer(number), A), Sighting(layer(number), OTHER)])
                age_keys(raw, HOUR)
            await index.record([Sighting(layer(0), A)])
            age_keys(raw, HOUR)
        found = await index_info(index)
    assert (found.newest, found.median, found.oldest) == (HOUR, 3 * HOUR, 5 * HOUR)


@pytest.mark.parametrize("kind", ["valkey", "redis7", "cluster"])
async def test_a_sample_stands_for_the_whole(kind: str, request: pytest.FixtureRequest) -> None:
    """A sample of the keys, other tenants' included, estimates the whole within a few percent."""
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
    """A sample that covers all keys is a count, not an estimate."""
    async with open_index(valkey.unix_url) as index:
        await index.record(SEEN)
        assert not (await index_info(index, sample=10_000)).estimated
        with pytest.raises(InvalidInputError, match="at least 1"):
            await index_info(index, sample=0)


async def test_a_pusher_may_not_list_keys(restricted: Place) -> None:
    """A pusher may not use SCAN, and the error names the user who may."""
    async with open_index(restricted.url) as index:
        with pytest.raises(IndexRefusedError, match="crossmount-operator in deploy"):
            await index_info(index)


@pytest.mark.parametrize(
    ("forbidden", "memory", "server_memory"), [("-memory|usage", False, True), ("-info", True, False)]
)
async def test_missing_server_numbers_are_unknown(
    start_server: StartServer, forbidden: str, memory: bool, server_memory: bool
) -> None:
    """Without permission for MEMORY USAGE everything else is counted."""
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
    """An index that cannot be listed raises an error."""
    with pytest.raises(InvalidInputError, match="cannot be listed"):
        await index_info(adapt(FourMethods()))


def test_the_blocking_flavour_counts_too(valkey: Server) -> None:
    """index_info works without an event loop, on a server and in memory."""
    for url in (valkey.unix_url, "memory:"):
        with crossmount.open_index(url) as index:
            index.record(SEEN)
            found = crossmount.index_info(index)
            assert isinstance(found, IndexInfo)
            assert (found.layers, found.sources, found.registries) == (2, 4, REGISTRIES)


def test_counts_need_constant_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of registries is limited, and ages are rounded to the minute."""
    monkeypatch.setattr("crossmount.maintenance.layer_counts.REGISTRIES_MAX", 3)
    counts = LayerCounts()
    for number in range(10):
        sources = {f"r{number}.example": RegistrySources(("a",), TTL_SECONDS - number)}
        counts.add(LayerEntry(layer=layer(number), registries=sources))
    assert (counts.layers, len(counts.by_registry()), len(counts._ages)) == (10, 3, 1)
    counts.add(LayerEntry(layer=layer(99), registries={"r0.example": RegistrySources(("a",), 10**12)}))
    assert counts.ages()[0] == 0


def test_repositories_of_docker_hub_count_as_one_registrys() -> None:
    """All spellings of Docker Hub count as one registry."""
    with crossmount.open_index("memory:") as index:
        index.add_source(ONE, Repository.parse("alpine"))
        index.add_source(ONE, Repository.parse("index.docker.io/team/a"))
        assert crossmount.index_info(index).registries == {"docker.io": RegistryInfo(layers=1, sources=2, size=0)}
