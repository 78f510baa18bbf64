"""Pairs of registries' names that an index shares, on a real server."""

import time
from collections.abc import Iterator

import pytest

import redis
from crossmount.errors import InvalidInputError
from crossmount.fleet.lease import LeaseValue
from crossmount.fleet.lease_store import LeaseStore
from crossmount.index import Keys, RedisMountIndex, RegistryTraits, Sighting
from crossmount.index.aliases import NAMES_MAX, SHARED_MAX, SHARED_SECONDS, SameRegistries
from crossmount.index.decode import TRAITS_SECONDS
from crossmount.index.registries import forget_traits, recorded_traits, share_pair, shared_pairs, unshare_pair
from crossmount.oci import Repository
from support.index_kit import Clock, CountingLink, layer, repo
from support.servers import Server

KEYS = Keys("names")
ONE = layer(1)
INSIDE, OUTSIDE = repo("registry.local:5000/team/a"), repo("localhost.example:5000/team/b")
PAIR = f"{OUTSIDE.registry}={INSIDE.registry}"


@pytest.fixture
def raw(valkey: Server) -> Iterator["redis.Redis"]:
    """Give a plain client of the server."""
    with redis.Redis.from_url(valkey.unix_url) as client:
        yield client
        client.delete(KEYS.same_registry())


async def test_a_shared_pair_costs_one_round_trip_once(link: CountingLink, raw: "redis.Redis") -> None:
    """The first look-up on a registry with several names takes two round trips, the next one, as all others do."""
    raw.hset(KEYS.same_registry(), OUTSIDE.registry, INSIDE.registry)
    index = RedisMountIndex(link, keys=KEYS)
    await index.record([Sighting(ONE, INSIDE, 5)])
    link.runs.clear()
    other = RedisMountIndex(link, keys=KEYS)
    assert await other.sources(ONE, OUTSIDE) == (Repository(OUTSIDE.registry, INSIDE.name),)
    assert len(link.runs) == 2
    await other.look_up([ONE], OUTSIDE)
    await RedisMountIndex(link, keys=KEYS).look_up([ONE], repo("r.example/x"))
    assert len(link.runs) == 5  # not on the home registry, and its first layer may be there


async def test_a_record_without_a_look_up_knows_the_shared_pairs(link: CountingLink, raw: "redis.Redis") -> None:
    """The first recording of a process lands under the kept name too."""
    raw.hset(KEYS.same_registry(), OUTSIDE.registry, INSIDE.registry)
    await RedisMountIndex(link, keys=KEYS).record([Sighting(ONE, OUTSIDE, 5)])
    assert raw.smembers(KEYS.sources(ONE, INSIDE.registry)) == {OUTSIDE.name.encode()}


@pytest.mark.usefixtures("raw")
async def test_pairs_are_read_again_after_a_minute(link: CountingLink) -> None:
    """A long-running process uses a pair that was added later, and no longer one that was removed."""
    clock = Clock()
    index = RedisMountIndex(link, keys=KEYS, clock=clock)
    await index.record([Sighting(ONE, INSIDE, 5)])
    assert await index.sources(ONE, OUTSIDE) == ()
    await share_pair(index.server(), PAIR)
    assert await index.sources(ONE, OUTSIDE) == ()
    clock.now += SHARED_SECONDS
    assert len(await index.sources(ONE, OUTSIDE)) == 1
    assert await unshare_pair(index.server(), OUTSIDE.registry)
    clock.now += SHARED_SECONDS
    assert await index.sources(ONE, OUTSIDE) == ()


async def test_hostile_pairs_are_ignored(link: CountingLink, raw: "redis.Redis") -> None:
    """Text that is no name of a registry has no effect, whatever its number; requests stay at dest's registry."""
    hostile = {"a b": "r", "\xff": "r", "r.example": "evil/x", "UP.example": "r", "x": "http://r", "e.example": ""}
    for name, other in hostile.items():
        raw.hset(KEYS.same_registry(), name, other)
    index = RedisMountIndex(link, keys=KEYS)
    assert (await shared_pairs(index.server())).pairs == ()
    raw.hset(KEYS.same_registry(), mapping={f"r{number}.example": "r.example" for number in range(1000)})
    assert len((await shared_pairs(index.server())).pairs) <= SHARED_MAX
    knowledge = await index.look_up([ONE], repo("r.example/x"))
    assert knowledge.of(ONE).sources == ()
    assert len(index.registry_names().of("r.example")) <= NAMES_MAX
    with pytest.raises(InvalidInputError, match="too many pairs"):
        await share_pair(index.server(), "new.example=r.example")


async def test_a_hostile_pair_moves_no_source_to_another_registry(link: CountingLink, raw: "redis.Redis") -> None:
    """Sources are always on dest's registry by dest's name, also if the index says that it is another's."""
    index = RedisMountIndex(link, keys=KEYS)
    await index.record([Sighting(ONE, repo("evil.example/x"), 5)])
    raw.hset(KEYS.same_registry(), mapping={"r.example": "evil.example"})
    found = await RedisMountIndex(link, keys=KEYS).look_up([ONE], repo("r.example/dest"))
    assert {source.registry for source in found.of(ONE).sources} == {"r.example"}


async def test_a_key_of_another_type_is_no_pairs(link: CountingLink, raw: "redis.Redis") -> None:
    """A look-up and a recording go on."""
    raw.set(KEYS.same_registry(), "x")
    index = RedisMountIndex(link, keys=KEYS)
    await index.record([Sighting(ONE, INSIDE, 5)])
    assert (await index.look_up([ONE], INSIDE)).of(ONE).in_dest


async def test_a_lease_is_one_under_all_names(link: CountingLink, raw: "redis.Redis") -> None:
    """An upload under one name is seen under the other."""
    index = RedisMountIndex(link, keys=KEYS, same=SameRegistries.parse([PAIR]))
    value = LeaseValue(token="t", holder="h", dest=OUTSIDE, size=5, since=time.time()).to_text()
    raw.set(KEYS.lease(ONE, INSIDE.registry), value, ex=60)
    found = await LeaseStore(index.server()).read(ONE, OUTSIDE.registry)
    assert found is not None
    assert found.dest == OUTSIDE


async def test_recorded_traits_have_an_age_and_can_be_forgotten(link: CountingLink, raw: "redis.Redis") -> None:
    """Traits, for how long they are believed, and nothing after they are forgotten."""
    index = RedisMountIndex(link, keys=KEYS)
    assert (await recorded_traits(index, "r.example")).seconds_left is None
    await index.record_traits("r.example", RegistryTraits(mounts=False))
    recorded = await recorded_traits(index, "R.example:443")
    assert (recorded.registry, recorded.traits.mounts) == ("r.example", False)
    assert recorded.seconds_left is not None
    assert recorded.age is not None
    assert recorded.seconds_left + recorded.age == TRAITS_SECONDS
    await forget_traits(index, "r.example")
    assert (await recorded_traits(index, "r.example")).traits == RegistryTraits()
    assert raw.exists(KEYS.traits("r.example")) == 0
