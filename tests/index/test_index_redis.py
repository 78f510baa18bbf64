"""The index on real servers: round trips, bounds, lifetimes, and values that a hostile client wrote."""

import time

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
SET, FLAGS, FLAG = KEYS.sources(ONE, "r.example"), KEYS.flags(ONE), KEYS.must_mount(ONE)
FORTY = [layer(i) for i in range(40)]


@pytest.fixture
def index(link: CountingLink) -> RedisMountIndex:
    """Return an index whose clock does not move."""
    return RedisMountIndex(link, keys=KEYS, ttl=TTL, clock=Clock())


def with_ttl(raw: "redis.Redis", *keys: str) -> None:
    """Set an expiry on the keys that a hostile client wrote; a fixture fails tests that leave keys without one."""
    for key in keys:
        raw.expire(key, 600)


def restricted(server: Server, rules: str) -> str:
    """Return a URL for a user whose rights have these rules."""
    with redis.Redis.from_url(server.url) as client:
        client.execute_command("ACL", "SETUSER", "ci", "on", ">secret", *rules.split())
    return f"redis://ci:secret@127.0.0.1:{server.port}/0"


async def test_reading_forty_layers_is_one_round_trip(index: RedisMountIndex, link: CountingLink) -> None:
    """One look-up is one run, of three commands a layer and one for the registry; the first reads three more."""
    await index.look_up(FORTY, DEST)
    await index.look_up(FORTY, DEST)
    assert [len(run) for run in link.runs] == [125, 122]


async def test_recording_forty_layers_is_one_round_trip(index: RedisMountIndex, link: CountingLink) -> None:
    """One recording is one run; the first also reads what is shared, and sends the scripts in a second."""
    await index.record(Sighting(one, A) for one in FORTY)
    await index.record(Sighting(one, B) for one in FORTY)
    assert [len(run) for run in link.runs] == [44, 41, 41]


async def test_the_server_sees_one_read_a_call(valkey: Server, index: RedisMountIndex, raw: "redis.Redis") -> None:
    """The server needs few reads of its socket for a look-up of forty layers, and for a recording of them."""
    await index.record(Sighting(one, A) for one in FORTY)
    assert valkey.process.poll() is None
    reads = []
    for call in (index.look_up(FORTY, DEST), index.record(Sighting(one, A) for one in FORTY)):
        before = raw.info("stats")["total_reads_processed"]
        await call
        reads.append(raw.info("stats")["total_reads_processed"] - before - 1)  # the INFO itself
    assert max(reads) <= 3, reads  # 16 KiB a read


async def test_scripts_are_loaded_again_when_they_are_gone(index: RedisMountIndex, raw: "redis.Redis") -> None:
    """After a server lost its scripts, they are loaded again, and every command of the call is run."""
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


async def test_a_refusal_to_load_scripts_is_raised(start_server: StartServer) -> None:
    """A user who may not load scripts gets the server's refusal, not the message that a script is missing."""
    url = restricted(start_server(), "~* +@all -script -eval")
    async with RedisMountIndex(async_link(url), keys=KEYS) as index:
        with pytest.raises(IndexRefusedError, match="ermission"):
            await index.record([Sighting(ONE, A)])


async def test_past_the_bound_an_old_source_makes_way(link: CountingLink, raw: "redis.Redis") -> None:
    """A set never has more members than its bound, and the newest source is always one of them."""
    index = RedisMountIndex(link, keys=KEYS, ttl=TTL, bound=3)
    for i in range(30):
        newest = repo(f"team/r{i}")
        await index.add_source(ONE, newest)
        found = await index.sources(ONE, DEST)
        assert newest in found
        assert len(found) == min(i + 1, 3) == raw.scard(SET)


async def test_a_bound_of_one_keeps_the_newest(link: CountingLink) -> None:
    """With the smallest bound the newest source stays, and the set expires."""
    index = RedisMountIndex(link, keys=KEYS, ttl=TTL, bound=1)
    for place in (A, B, B, A):
        await index.add_source(ONE, place)
        assert await index.sources(ONE, DEST) == (place,)


async def test_the_default_bound_keeps_sets_compact(index: RedisMountIndex, raw: "redis.Redis") -> None:
    """A set at its bound is still a listpack, the compact encoding of small sets."""
    await index.record(Sighting(ONE, repo(f"team/r{i}")) for i in range(200))
    assert raw.scard(SET) == SOURCES_MAX
    assert raw.object("encoding", SET) == b"listpack"


async def test_a_bloated_set_costs_no_more_than_the_bound(index: RedisMountIndex, raw: "redis.Redis") -> None:
    """A set far above the bound is read up to the bound; each recording shrinks it, and adds the newest source."""
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
    """Sources and flags expire after the TTL, and traits after theirs."""
    await index.record([Sighting(ONE, A, size=1), Sighting(ONE, OTHER)])
    await index.record_traits("r.example", RegistryTraits(mounts=True))
    assert {key: TTL - 5 <= raw.ttl(key) <= TTL for key in (SET, FLAGS)} == {SET: True, FLAGS: True}
    assert 0 < raw.ttl(KEYS.traits("r.example")) <= 6 * 3600


async def test_a_must_mount_flag_lives_until_it_is_cleared(index: RedisMountIndex, raw: "redis.Redis") -> None:
    """The flag does not expire, and says who set it and when; a second one leaves it as it is."""
    await index.record([Sighting(ONE, A)])
    await index.record([Sighting(ONE, B, must_mount=True)])
    await index.record([Sighting(ONE, OTHER)])
    assert raw.ttl(FLAG) == -1
    assert raw.ttl(SET) > 0
    before = raw.hgetall(FLAG)
    assert set(before) == {b"who", b"since", b"why"}
    assert abs(int(before[b"since"]) - time.time()) < 60
    raw.hset(FLAG, "who", "somebody")
    await index.add_source(ONE, B, must_mount=True)
    assert raw.hget(FLAG, "who") == b"somebody"
    await index.clear_must_mount(ONE)
    assert not raw.exists(FLAG)


@pytest.mark.parametrize("since", ["", "0", "-1", "soon", "1e9", "9" * 30, None])
async def test_a_must_mount_hash_without_a_time_is_no_flag(
    index: RedisMountIndex, raw: "redis.Redis", since: str | None
) -> None:
    """A flag is set only if its hash says since when; setting it then writes all fields."""
    raw.hset(FLAG, mapping={"why": "x", **({} if since is None else {"since": since})})
    assert not await index.must_mount(ONE)
    assert not (await index.look_up([ONE], DEST)).of(ONE).must_mount
    await index.add_source(ONE, A, must_mount=True)
    assert await index.must_mount(ONE)
    await index.clear_must_mount(ONE)


async def test_the_flag_of_the_first_version_counts_no_more(index: RedisMountIndex, raw: "redis.Redis") -> None:
    """A field that pushers can write is no flag; it stays for `index upgrade`, and clearing removes it."""
    await index.record([Sighting(ONE, A)])
    raw.hset(FLAGS, "must_mount", "1")
    await index.record([Sighting(ONE, A)])
    assert raw.ttl(FLAGS) == -1
    assert not await index.must_mount(ONE)
    assert not (await index.look_up([ONE], DEST)).of(ONE).must_mount
    await index.clear_must_mount(ONE)
    assert 0 < raw.ttl(FLAGS) <= TTL
    assert not raw.hexists(FLAGS, "must_mount")


async def test_a_shorter_life_does_not_cut_a_longer_one(link: CountingLink, raw: "redis.Redis") -> None:
    """When pushers with different TTLs record a source, in any order, the longest TTL counts."""
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
    """On a Cluster all keys of a layer are in one slot, and layers are spread over the slots."""
    await index.record(Sighting(one, place) for one in FORTY for place in (A, OTHER))
    slots: dict[str, set[int]] = {}
    for key in raw.scan_iter("crossmount:*"):
        digest = key.decode().partition("{")[2].partition("}")[0]
        if not digest:
            continue
        slots.setdefault(digest, set()).add(key_slot(key))
    assert set(slots) == {str(one) for one in FORTY}
    assert all(len(found) == 1 for found in slots.values())
    assert len(set.union(*slots.values())) > 35


async def test_namespaces_do_not_meet(link: CountingLink) -> None:
    """A tenant never sees, forgets or flags the layers of another."""
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
    """A member that is not a repository name is ignored in every result."""
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
    """A one-word member is ignored on Docker Hub, which has no such repository."""
    raw.sadd(KEYS.sources(ONE, "docker.io"), "alpine", "library/alpine")
    raw.hset(FLAGS, "@docker.io", 2**40)
    with_ttl(raw, KEYS.sources(ONE, "docker.io"), FLAGS)
    (found,) = await index.sources(ONE, repo("docker.io/team/x"))
    assert found == (await index.locations(ONE))[0] == repo("docker.io/library/alpine")
    assert len(await index.locations(ONE)) == 1


async def test_hostile_fields_are_no_registries(index: RedisMountIndex, raw: "redis.Redis") -> None:
    """A field that is not a normalised registry, or whose time is over, is ignored."""
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
    """A size that is not a number of at most 63 bits counts as unknown."""
    raw.hset(FLAGS, "size", size)
    with_ttl(raw, FLAGS)
    assert (await index.look_up([ONE], DEST)).of(ONE).size is None


async def test_hostile_traits_are_unknown(index: RedisMountIndex, raw: "redis.Redis") -> None:
    """A trait that is neither yes nor no counts as not observed."""
    raw.hset(KEYS.traits("r.example"), mapping={"mounts": "maybe", "finds": "", "after_manifest": "1", "x": "1"})
    with_ttl(raw, KEYS.traits("r.example"))
    assert (await index.look_up([], DEST)).traits == RegistryTraits(after_manifest=True)


@pytest.mark.parametrize("seconds", [None, 7 * 3600, 10**9])
async def test_traits_that_would_live_longer_than_ours_are_not_believed(
    index: RedisMountIndex, raw: "redis.Redis", seconds: int | None
) -> None:
    """Who says that a registry does not mount must say it every few hours: other traits are not believed."""
    key = KEYS.traits("r.example")
    raw.hset(key, mapping={"mounts": "0", "after_manifest": "1"})
    if seconds is not None:
        raw.expire(key, seconds)
    assert (await index.look_up([ONE], DEST)).traits == RegistryTraits()
    await index.record_traits("r.example", RegistryTraits(finds=True))
    assert (await index.look_up([ONE], DEST)).traits == RegistryTraits(finds=True)
    assert 0 < raw.ttl(key) <= 6 * 3600


async def test_a_wrong_type_in_place_of_flags_hides_no_source(index: RedisMountIndex, raw: "redis.Redis") -> None:
    """A layer whose flags are of another type is recorded all the same, and the refusal is told."""
    raw.set(FLAGS, "x", ex=600)
    with pytest.raises(IndexRefusedError, match="something else"):
        await index.record([Sighting(ONE, A, size=5)])
    assert (await index.look_up([ONE], DEST)).of(ONE).sources == (A,)


@pytest.mark.parametrize("recorded", [True, False])
async def test_flags_of_a_stranger_are_not_read_for_ever(
    index: RedisMountIndex, raw: "redis.Redis", *, recorded: bool
) -> None:
    """A hash of flags with more fields than ours can have makes way when its layer is recorded or forgotten."""
    await index.record([Sighting(ONE, A, size=5)])
    raw.hset(FLAGS, mapping={f"@r{i}.example": 2**33 for i in range(2000)})
    await (index.record([Sighting(ONE, A)]) if recorded else index.forget(ONE, A))
    assert raw.hlen(FLAGS) == 0


async def test_many_registries_of_a_layer_are_bounded(index: RedisMountIndex, raw: "redis.Redis") -> None:
    """A hash with very many registries does not make a call with very many commands."""
    raw.hset(FLAGS, mapping={f"@r{i}.example": 2**40 for i in range(1000)})
    with_ttl(raw, FLAGS)
    assert len((await index.look_up([ONE], DEST)).of(ONE).elsewhere) == REGISTRIES_MAX
    assert await index.locations(ONE) == ()


@pytest.mark.parametrize("ends", ["1e400", "nan", "inf", "9" * 18, "0x7fffffff", "-5", "", "1.5"])
async def test_hostile_ends_leave_no_key_for_ever(index: RedisMountIndex, raw: "redis.Redis", ends: str) -> None:
    """Whatever value is in place of an expiry, recording and forgetting work, and the hash expires."""
    await index.record([Sighting(ONE, A), Sighting(ONE, OTHER)])
    raw.hset(FLAGS, "@evil.example", ends)
    await index.record([Sighting(ONE, A)])
    assert TTL - 5 <= raw.ttl(FLAGS) <= TTL
    await index.forget(ONE, A, OTHER)
    assert await index.locations(ONE) == ()


async def test_a_hostile_end_of_our_registry_is_overwritten(index: RedisMountIndex, raw: "redis.Redis") -> None:
    """A recording replaces any value in place of the registry's expiry."""
    for ends in ("zzzzzzzzzz", "9" * 30, ""):
        raw.hset(FLAGS, "@r.example", ends)
        await index.record([Sighting(ONE, A)])
        assert await index.locations(ONE) == (A,)


@pytest.mark.parametrize("key", [SET, FLAGS])
async def test_a_wrong_type_makes_one_layer_unknown(index: RedisMountIndex, raw: "redis.Redis", key: str) -> None:
    """A key of another type makes its layer unknown, and the other layers are answered."""
    await index.record([Sighting(TWO, A, size=2)])
    raw.set(key, "x", ex=600)
    for asked in ([ONE], [ONE, TWO]):
        knowledge = await index.look_up(asked, DEST)
        assert knowledge.of(ONE) == LayerKnowledge()
    assert knowledge.of(TWO) == LayerKnowledge(sources=(A,), size=2)
    assert not await index.must_mount(ONE)
    assert await index.locations(ONE) == ()


async def test_a_wrong_type_under_traits_leaves_the_layers(index: RedisMountIndex, raw: "redis.Redis") -> None:
    """If the key of the traits is not a hash, the traits are unknown, and all layers are answered."""
    await index.record([Sighting(ONE, A)])
    raw.set(KEYS.traits("r.example"), "x", ex=600)
    knowledge = await index.look_up([ONE], DEST)
    assert knowledge.traits == RegistryTraits()
    assert knowledge.of(ONE).sources == (A,)
    with pytest.raises(IndexRefusedError, match="WRONGTYPE"):
        await index.record_traits("r.example", RegistryTraits(mounts=True))


@pytest.mark.parametrize("key", [SET, FLAGS])
async def test_a_wrong_type_is_raised_after_the_others_are_recorded(
    index: RedisMountIndex, raw: "redis.Redis", key: str
) -> None:
    """A recording raises an error for a refused sighting after it recorded all others."""
    raw.set(key, "x", ex=600)
    with pytest.raises(IndexRefusedError, match="WRONGTYPE"):
        await index.record([Sighting(ONE, A), Sighting(TWO, A)])
    assert await index.sources(TWO, DEST) == (A,)
    raw.delete(key)
    await index.record([Sighting(ONE, A)])
    assert await index.locations(ONE) == (A,)


async def test_only_some_keys_may_be_read(start_server: StartServer) -> None:
    """If an access list hides a layer, the others are answered; if it hides all, the call raises an error."""
    url = restricted(start_server(), f"~*{TWO}* +@all")
    async with RedisMountIndex(async_link(url), keys=KEYS, ttl=TTL) as index:
        await index.record([Sighting(TWO, A)])
        knowledge = await index.look_up([ONE, TWO], DEST)
        assert knowledge.of(ONE) == LayerKnowledge()
        assert knowledge.of(TWO).sources == (A,)
        with pytest.raises(IndexRefusedError, match="ermission"):
            await index.look_up([ONE], DEST)
