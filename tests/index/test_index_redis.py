"""The index on real servers: round trips, bounds, lifetimes, and what a hostile or careless neighbour writes."""

from collections.abc import AsyncIterator, Iterator

import pytest
from redis.crc import key_slot

import redis
from crossmount.errors import IndexRefusedError
from crossmount.index import Keys, LayerKnowledge, RedisMountIndex, RegistryTraits, Sighting
from crossmount.index.decode import REGISTRIES_MAX
from crossmount.index.redis_index import SOURCES_MAX
from support.index_kit import TTL, Clock, CountingLink, layer, repo
from support.links import async_link
from support.servers import Server, StartServer

KEYS = Keys("specific")
A, B, DEST, OTHER = repo("team/a"), repo("team/b"), repo("team/dest"), repo("other.example/team/a")
ONE, TWO = layer(1), layer(2)
SET, FLAGS = KEYS.sources(ONE, "r.example"), KEYS.flags(ONE)
FORTY = [layer(i) for i in range(40)]


@pytest.fixture
def raw(valkey: Server) -> Iterator["redis.Redis"]:
    """Give a plain client of the server."""
    with redis.Redis.from_url(valkey.unix_url) as client:
        yield client


@pytest.fixture
async def link(valkey: Server) -> AsyncIterator[CountingLink]:
    """Give a link that counts its round trips."""
    counting = CountingLink(async_link(valkey.unix_url))
    yield counting
    await counting.aclose()


@pytest.fixture
def index(link: CountingLink) -> RedisMountIndex:
    """Give an index whose clock stands."""
    return RedisMountIndex(link, keys=KEYS, ttl=TTL, clock=Clock())


def with_ttl(raw: "redis.Redis", *keys: str) -> None:
    """Give what a hostile neighbour wrote a time to live, for the fixture that looks for keys without one."""
    for key in keys:
        raw.expire(key, 600)


def restricted(server: Server, rules: str) -> str:
    """Return a URL for a user whose rights have these rules."""
    with redis.Redis.from_url(server.url) as client:
        client.execute_command("ACL", "SETUSER", "ci", "on", ">secret", *rules.split())
    return f"redis://ci:secret@127.0.0.1:{server.port}/0"


async def test_reading_forty_layers_is_one_round_trip(index: RedisMountIndex, link: CountingLink) -> None:
    """One look-up is one run, of two commands a layer and one for the registry."""
    await index.look_up(FORTY, DEST)
    assert [len(run) for run in link.runs] == [81]


async def test_recording_forty_layers_is_one_round_trip(index: RedisMountIndex, link: CountingLink) -> None:
    """One recording is one run; only the first on a fresh server brings the scripts in a second."""
    await index.record(Sighting(one, A) for one in FORTY)
    await index.record(Sighting(one, B) for one in FORTY)
    assert [len(run) for run in link.runs] == [40, 45, 40]


async def test_the_server_sees_one_read_a_call(valkey: Server, index: RedisMountIndex, raw: "redis.Redis") -> None:
    """The server reads a look-up of forty layers, and a recording of them, from its socket in few reads."""
    await index.record(Sighting(one, A) for one in FORTY)
    assert valkey.process.poll() is None
    reads = []
    for call in (index.look_up(FORTY, DEST), index.record(Sighting(one, A) for one in FORTY)):
        before = raw.info("stats")["total_reads_processed"]
        await call
        reads.append(raw.info("stats")["total_reads_processed"] - before - 1)  # the INFO itself
    assert max(reads) <= 3, reads  # 16 KiB a read


async def test_scripts_are_loaded_again_when_they_are_gone(index: RedisMountIndex, raw: "redis.Redis") -> None:
    """A server that lost its scripts gets them again, and every call of the run is carried out."""
    await index.record([Sighting(ONE, A)])
    raw.script_flush()
    await index.record(Sighting(one, A, must_mount=True) for one in (ONE, TWO))
    raw.script_flush()
    await index.clear_must_mount(ONE)
    raw.script_flush()
    await index.forget(TWO, A)
    raw.script_flush()
    await index.record_traits("r.example", RegistryTraits(mounts=True))
    assert await index.sources(ONE, DEST) == (A,)
    assert await index.sources(TWO, DEST) == ()
    assert await index.must_mount(TWO)
    await index.clear_must_mount(TWO)


async def test_scripts_that_may_not_be_loaded_are_told(start_server: StartServer) -> None:
    """A user who may not load scripts gets the server's own words, not that a script is missing."""
    url = restricted(start_server(), "~* +@all -script")
    async with RedisMountIndex(async_link(url), keys=KEYS) as index:
        with pytest.raises(IndexRefusedError, match="ermission"):
            await index.record([Sighting(ONE, A)])


async def test_past_the_bound_an_old_source_makes_way(link: CountingLink, raw: "redis.Redis") -> None:
    """A set never holds more than its bound, and the newest is always in it."""
    index = RedisMountIndex(link, keys=KEYS, ttl=TTL, bound=3)
    for i in range(30):
        newest = repo(f"team/r{i}")
        await index.add_source(ONE, newest)
        found = await index.sources(ONE, DEST)
        assert newest in found
        assert len(found) == min(i + 1, 3) == raw.scard(SET)


async def test_a_bound_of_one_keeps_the_newest(link: CountingLink) -> None:
    """The smallest bound works too, and leaves a time to live."""
    index = RedisMountIndex(link, keys=KEYS, ttl=TTL, bound=1)
    for place in (A, B, B, A):
        await index.add_source(ONE, place)
        assert await index.sources(ONE, DEST) == (place,)


async def test_the_default_bound_keeps_sets_compact(index: RedisMountIndex, raw: "redis.Redis") -> None:
    """A set at its bound is still a listpack, which is what makes it small."""
    await index.record(Sighting(ONE, repo(f"team/r{i}")) for i in range(200))
    assert raw.scard(SET) == SOURCES_MAX
    assert raw.object("encoding", SET) == b"listpack"


async def test_a_bloated_set_costs_no_more_than_the_bound(index: RedisMountIndex, raw: "redis.Redis") -> None:
    """What somebody bloated is read up to the bound, and shrinks with each recording, the newest in it."""
    raw.sadd(SET, *(f"evil/r{i}" for i in range(5000)))
    with_ttl(raw, SET)
    assert len(await index.sources(ONE, DEST)) <= SOURCES_MAX
    for i in range(6):
        before = raw.scard(SET)
        await index.add_source(ONE, repo(f"team/r{i}"))
        assert raw.sismember(SET, f"team/r{i}")
        assert raw.scard(SET) == max(before - 999, SOURCES_MAX)
    assert raw.scard(SET) == SOURCES_MAX


async def test_every_key_of_a_layer_has_its_life(index: RedisMountIndex, raw: "redis.Redis") -> None:
    """Sources and flags get the time to live, and traits theirs."""
    await index.record([Sighting(ONE, A, size=1)])
    await index.record_traits("r.example", RegistryTraits(mounts=True))
    assert {key: TTL - 5 <= raw.ttl(key) <= TTL for key in (SET, FLAGS)} == {SET: True, FLAGS: True}
    assert 0 < raw.ttl(KEYS.traits("r.example")) <= 6 * 3600


async def test_a_must_mount_hash_lives_until_it_is_cleared(index: RedisMountIndex, raw: "redis.Redis") -> None:
    """The flag takes the time to live from its hash alone; lifting it gives one back."""
    await index.record([Sighting(ONE, A)])
    await index.record([Sighting(ONE, B, must_mount=True)])
    await index.record([Sighting(ONE, OTHER)])
    assert raw.ttl(FLAGS) == -1
    assert raw.ttl(SET) > 0
    await index.clear_must_mount(ONE)
    assert TTL - 5 <= raw.ttl(FLAGS) <= TTL


async def test_a_shorter_life_does_not_cut_a_longer_one(link: CountingLink, raw: "redis.Redis") -> None:
    """Pushers with other times to live may record in any order: the longest counts."""
    clock = Clock()
    patient = RedisMountIndex(link, keys=KEYS, ttl=TTL, clock=clock)
    hasty = RedisMountIndex(link, keys=KEYS, ttl=10, clock=clock)
    await patient.record([Sighting(ONE, A), Sighting(ONE, OTHER)])
    await hasty.record([Sighting(ONE, B), Sighting(ONE, OTHER)])
    assert raw.ttl(SET) > 10
    assert raw.ttl(FLAGS) > 10
    clock.now += 20
    assert (await patient.look_up([ONE], DEST)).of(ONE).elsewhere == ("other.example",)


async def test_all_keys_of_a_layer_are_in_one_slot(index: RedisMountIndex, raw: "redis.Redis") -> None:
    """On a Cluster, everything about a layer lies on one node, and layers spread over the slots."""
    await index.record(Sighting(one, place) for one in FORTY for place in (A, OTHER))
    slots: dict[str, set[int]] = {}
    for key in raw.scan_iter("crossmount:*"):
        digest = key.decode().partition("{")[2].partition("}")[0]
        slots.setdefault(digest, set()).add(key_slot(key))
    assert set(slots) == {str(one) for one in FORTY}
    assert all(len(found) == 1 for found in slots.values())
    assert len(set.union(*slots.values())) > 35


async def test_namespaces_do_not_meet(link: CountingLink) -> None:
    """One tenant never sees, forgets or flags what is another's."""
    mine, theirs = (RedisMountIndex(link, keys=Keys(name), ttl=TTL) for name in ("mine", "theirs"))
    await mine.add_source(ONE, A, must_mount=True)
    await mine.record_traits("r.example", RegistryTraits(mounts=True))
    knowledge = await theirs.look_up([ONE], DEST)
    assert knowledge.of(ONE) == LayerKnowledge()
    assert knowledge.traits == RegistryTraits()
    assert await theirs.locations(ONE) == ()
    await theirs.forget(ONE, A)
    await theirs.clear_must_mount(ONE)
    assert await mine.must_mount(ONE)
    assert await mine.sources(ONE, DEST) == (A,)


async def test_hostile_members_are_no_sources(index: RedisMountIndex, raw: "redis.Redis") -> None:
    """What is no repository name is ignored, wherever it would end up."""
    hostile = [
        b"",
        b"\xff\xfe",
        b"UP",
        b"a//b",
        b"../x",
        b"a b",
        b"a\r\nX: y",
        b"a?from=b",
        b"a" * 256,
        "é".encode(),
    ]
    raw.sadd(SET, *hostile, "team/a")
    raw.hset(FLAGS, "@r.example", 2**40)
    with_ttl(raw, SET, FLAGS)
    assert await index.sources(ONE, DEST) == (A,)
    assert await index.locations(ONE) == (A,)


async def test_one_word_members_are_no_sources_on_docker_hub(index: RedisMountIndex, raw: "redis.Redis") -> None:
    """Docker Hub has no repository of one word, so nobody here wrote such a member."""
    raw.sadd(KEYS.sources(ONE, "docker.io"), "alpine", "library/alpine")
    raw.hset(FLAGS, "@docker.io", 2**40)
    with_ttl(raw, KEYS.sources(ONE, "docker.io"), FLAGS)
    (found,) = await index.sources(ONE, repo("docker.io/team/x"))
    assert found == (await index.locations(ONE))[0] == repo("docker.io/library/alpine")
    assert len(await index.locations(ONE)) == 1


async def test_hostile_fields_are_no_registries(index: RedisMountIndex, raw: "redis.Redis") -> None:
    """Fields that are not a normalised registry with a time to come are ignored."""
    names: list[bytes | str] = ["@", "@UP.example", "@docker.io:443", "@a b", b"@\xff", "@good.example:5000"]
    fields: dict[bytes | str, int | str] = dict.fromkeys(names, 2**40)
    fields |= {"@past.example": 1, "@word.example": "soon", "@minus.example": "-9", "@vast.example": "9" * 30}
    for field, value in fields.items():
        raw.hset(FLAGS, field, value)
    with_ttl(raw, FLAGS)
    assert (await index.look_up([ONE], DEST)).of(ONE) == LayerKnowledge(elsewhere=("good.example:5000",))
    assert await index.locations(ONE) == ()


@pytest.mark.parametrize("size", ["", "-1", "1.5", "1e3", "many", "9" * 19, "9" * 40, "٣", " 1"])
async def test_hostile_sizes_are_unknown(index: RedisMountIndex, raw: "redis.Redis", size: str) -> None:
    """A size that is no number of at most 63 bits is not known."""
    raw.hset(FLAGS, "size", size)
    with_ttl(raw, FLAGS)
    assert (await index.look_up([ONE], DEST)).of(ONE).size is None


async def test_hostile_traits_are_unknown(index: RedisMountIndex, raw: "redis.Redis") -> None:
    """A trait that is neither yes nor no was not seen."""
    raw.hset(KEYS.traits("r.example"), mapping={"mounts": "maybe", "finds": "", "after_manifest": "1", "x": "1"})
    with_ttl(raw, KEYS.traits("r.example"))
    assert (await index.look_up([], DEST)).traits == RegistryTraits(after_manifest=True)


async def test_many_registries_of_a_layer_are_bounded(index: RedisMountIndex, raw: "redis.Redis") -> None:
    """A hash that somebody filled with registries makes no endless run."""
    raw.hset(FLAGS, mapping={f"@r{i}.example": 2**40 for i in range(1000)})
    with_ttl(raw, FLAGS)
    assert len((await index.look_up([ONE], DEST)).of(ONE).elsewhere) == REGISTRIES_MAX
    assert await index.locations(ONE) == ()


@pytest.mark.parametrize("ends", ["1e400", "nan", "inf", "9" * 18, "0x7fffffff", "-5", "", "1.5"])
async def test_hostile_ends_leave_no_key_for_ever(index: RedisMountIndex, raw: "redis.Redis", ends: str) -> None:
    """Whatever stands where an end should, clearing and forgetting work and the hash gets a time to live."""
    await index.record([Sighting(ONE, A, must_mount=True)])
    raw.hset(FLAGS, "@evil.example", ends)
    await index.clear_must_mount(ONE)
    assert TTL - 5 <= raw.ttl(FLAGS) <= TTL
    await index.forget(ONE, A)
    assert await index.locations(ONE) == ()


async def test_a_hostile_end_of_our_registry_is_overwritten(index: RedisMountIndex, raw: "redis.Redis") -> None:
    """Recording mends the registry's field, whatever stood there."""
    for ends in ("zzzzzzzzzz", "9" * 30, ""):
        raw.hset(FLAGS, "@r.example", ends)
        await index.record([Sighting(ONE, A)])
        assert await index.locations(ONE) == (A,)


@pytest.mark.parametrize("key", [SET, FLAGS])
async def test_a_wrong_type_makes_one_layer_unknown(index: RedisMountIndex, raw: "redis.Redis", key: str) -> None:
    """Where somebody else's value stands under a name of ours, the other layers are answered."""
    await index.record([Sighting(TWO, A, size=2)])
    raw.set(key, "x", ex=600)
    for asked in ([ONE], [ONE, TWO]):
        knowledge = await index.look_up(asked, DEST)
        assert knowledge.of(ONE) == LayerKnowledge()
    assert knowledge.of(TWO) == LayerKnowledge(sources=(A,), size=2)
    assert not await index.must_mount(ONE)
    assert await index.locations(ONE) == ()


async def test_a_wrong_type_under_traits_leaves_the_layers(index: RedisMountIndex, raw: "redis.Redis") -> None:
    """Traits that are no hash are not known, and all layers are answered."""
    await index.record([Sighting(ONE, A)])
    raw.set(KEYS.traits("r.example"), "x", ex=600)
    knowledge = await index.look_up([ONE], DEST)
    assert knowledge.traits == RegistryTraits()
    assert knowledge.of(ONE).sources == (A,)
    with pytest.raises(IndexRefusedError, match="WRONGTYPE"):
        await index.record_traits("r.example", RegistryTraits(mounts=True))


@pytest.mark.parametrize("key", [SET, FLAGS])
async def test_a_wrong_type_is_told_after_the_others_are_recorded(
    index: RedisMountIndex, raw: "redis.Redis", key: str
) -> None:
    """Recording says that one was refused, and has recorded the rest."""
    raw.set(key, "x", ex=600)
    with pytest.raises(IndexRefusedError, match="WRONGTYPE"):
        await index.record([Sighting(ONE, A), Sighting(TWO, A)])
    assert await index.sources(TWO, DEST) == (A,)
    raw.delete(key)
    await index.record([Sighting(ONE, A)])
    assert await index.locations(ONE) == (A,)


async def test_only_some_keys_may_be_read(start_server: StartServer) -> None:
    """Where an access list hides a layer, the others are answered; where it hides all, that is told."""
    url = restricted(start_server(), f"~*{TWO}* +@all")
    async with RedisMountIndex(async_link(url), keys=KEYS, ttl=TTL) as index:
        await index.record([Sighting(TWO, A)])
        knowledge = await index.look_up([ONE, TWO], DEST)
        assert knowledge.of(ONE) == LayerKnowledge()
        assert knowledge.of(TWO).sources == (A,)
        with pytest.raises(IndexRefusedError, match="ermission"):
            await index.look_up([ONE], DEST)
