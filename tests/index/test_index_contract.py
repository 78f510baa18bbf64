"""The contract of every index: one suite for all stores and both flavours."""

import asyncio

import fakeredis
import pytest

from crossmount.errors import InvalidReferenceError
from crossmount.index import (
    Keys,
    LayerKnowledge,
    MemoryMountIndex,
    MountIndex,
    RedisMountIndex,
    RegistryTraits,
    Sighting,
)
from crossmount.oci import Digest, Reference, Repository
from support.index_kit import layer, repo
from support.links import async_link, async_link_to

KEYS = Keys()
A, B, C, DEST = repo("team/a"), repo("team/b"), repo("c"), repo("team/dest")
OTHER = repo("other.example:5000/team/a")
ONE, TWO, UNKNOWN = layer(1), layer(2), layer(3)


async def test_an_empty_index_knows_nothing(index: MountIndex) -> None:
    """Every method of an empty index returns that nothing is known."""
    assert await index.sources(UNKNOWN, DEST) == ()
    assert await index.locations(UNKNOWN) == ()
    assert not await index.is_mountable(UNKNOWN, DEST)
    assert not await index.must_mount(UNKNOWN)
    knowledge = await index.look_up([UNKNOWN], DEST)
    assert knowledge.layers == {UNKNOWN: LayerKnowledge()}
    assert knowledge.traits == RegistryTraits()
    assert knowledge.of(ONE) == LayerKnowledge()


async def test_a_source_can_be_mounted_from(index: MountIndex) -> None:
    """A source on dest's registry is found, and makes the layer mountable."""
    await index.add_source(ONE, A)
    assert await index.sources(ONE, DEST) == (A,)
    assert await index.is_mountable(ONE, DEST)
    assert await index.sources(TWO, DEST) == ()


async def test_dest_is_never_its_own_source(index: MountIndex) -> None:
    """A layer that dest holds is not mountable into dest, even if it has other sources."""
    await index.add_source(ONE, DEST)
    assert await index.sources(ONE, DEST) == ()
    assert not await index.is_mountable(ONE, DEST)
    await index.add_source(ONE, A)
    assert await index.sources(ONE, DEST) == (A,)
    assert not await index.is_mountable(ONE, DEST)
    known = (await index.look_up([ONE], DEST)).of(ONE)
    assert known.in_dest
    assert known.sources == (A,)


async def test_tags_and_digests_are_ignored(index: MountIndex) -> None:
    """All references to one repository are one source, and one destination."""
    tagged = Reference.parse("r.example/team/a:v1")
    pinned = Reference.parse(f"r.example/team/a@{layer(9)}")
    await index.add_source(ONE, tagged)
    await index.add_source(ONE, pinned)
    assert await index.sources(ONE, DEST) == (A,)
    assert await index.sources(ONE, pinned) == ()
    assert not await index.is_mountable(ONE, tagged)
    await index.forget(ONE, Reference.parse("r.example/team/a:v2"))
    assert await index.sources(ONE, DEST) == ()


async def test_docker_hubs_names_are_one(index: MountIndex) -> None:
    """The three names of Docker Hub are one registry, and a one-word repository there is under library/."""
    await index.add_source(ONE, Repository.parse("index.docker.io/alpine"))
    hub = Repository.parse("registry-1.docker.io/team/app")
    assert await index.sources(ONE, hub) == (Repository("docker.io", "library/alpine"),)
    assert (await index.look_up([ONE], Repository.parse("library/alpine"))).of(ONE).in_dest


async def test_registries_compare_without_case_and_default_port(index: MountIndex) -> None:
    """Registries are compared without case and without the default port."""
    await index.add_source(ONE, Repository.parse("R.Example:443/team/a"))
    assert await index.sources(ONE, DEST) == (A,)


async def test_a_found_source_is_reached_as_dest_is(index: MountIndex) -> None:
    """A source has the address by which dest's registry was named."""
    await index.add_source(ONE, A)
    (source,) = await index.sources(ONE, Repository.parse("r.example:443/team/dest"))
    assert source.address == "r.example:443"


async def test_other_registries_are_elsewhere(index: MountIndex) -> None:
    """A source on another registry is in `elsewhere`, and not in `sources`."""
    await index.add_source(ONE, OTHER)
    await index.add_source(ONE, Repository.parse("[2001:db8::1]:5000/x"))
    known = (await index.look_up([ONE], DEST)).of(ONE)
    assert known == LayerKnowledge(elsewhere=("[2001:db8::1]:5000", "other.example:5000"))
    assert not await index.is_mountable(ONE, DEST)
    await index.add_source(ONE, A)
    assert (await index.look_up([ONE], OTHER)).of(ONE).elsewhere == ("[2001:db8::1]:5000", "r.example")


async def test_locations_are_on_all_registries(index: MountIndex) -> None:
    """Every repository that holds a layer is listed once, in order of registry and name."""
    await index.record([Sighting(ONE, place) for place in (C, OTHER, B, A, B)])
    assert await index.locations(ONE) == (OTHER, C, A, B)


async def test_sources_are_in_order(index: MountIndex) -> None:
    """Sources are in order of name, in any order of records."""
    for place in (B, C, A, B):
        await index.add_source(ONE, place)
    assert await index.sources(ONE, DEST) == (C, A, B)


async def test_must_mount_is_sticky(index: MountIndex) -> None:
    """A plain source does not remove the must-mount flag of another client."""
    await index.add_source(ONE, A, must_mount=True)
    await index.add_source(ONE, A, must_mount=False)
    await index.add_source(ONE, B)
    assert await index.must_mount(ONE)
    assert (await index.look_up([ONE], DEST)).of(ONE).must_mount
    assert not await index.must_mount(TWO)


async def test_must_mount_can_be_cleared(index: MountIndex) -> None:
    """Clearing removes the flag, and keeps the sources and the size."""
    await index.record([Sighting(ONE, A, size=7, must_mount=True)])
    await index.clear_must_mount(ONE)
    await index.clear_must_mount(ONE)
    await index.clear_must_mount(UNKNOWN)
    assert not await index.must_mount(ONE)
    assert (await index.look_up([ONE], DEST)).of(ONE) == LayerKnowledge(sources=(A,), size=7)
    assert not await index.must_mount(UNKNOWN)


async def test_must_mount_outlives_its_sources(index: MountIndex) -> None:
    """The flag stays after all sources are forgotten."""
    await index.record([Sighting(ONE, A, must_mount=True)])
    await index.forget(ONE, A)
    assert await index.must_mount(ONE)
    assert await index.locations(ONE) == ()
    await index.clear_must_mount(ONE)
    assert (await index.look_up([ONE], DEST)).of(ONE) == LayerKnowledge()


async def test_the_order_of_records_does_not_matter(index: MountIndex) -> None:
    """The order of records does not change the answer."""
    seen = [Sighting(ONE, A), Sighting(ONE, B, must_mount=True), Sighting(ONE, OTHER), Sighting(ONE, DEST, size=5)]
    await index.record(seen)
    await index.record([Sighting(TWO, s.repository, s.size, s.must_mount) for s in reversed(seen)])
    knowledge = await index.look_up([ONE, TWO], DEST)
    assert knowledge.of(ONE) == knowledge.of(TWO)
    assert await index.locations(ONE) == await index.locations(TWO)


async def test_many_layers_at_once(index: MountIndex) -> None:
    """All layers of an image are recorded and read in one call, also with duplicates."""
    layers = [layer(i) for i in range(40)]
    await index.record(Sighting(one, A if i % 2 else B, size=i) for i, one in enumerate(layers))
    knowledge = await index.look_up(iter([*layers, layers[0], layer(99)]), DEST)
    assert list(knowledge.layers) == [*layers, layer(99)]
    for i, one in enumerate(layers):
        assert knowledge.of(one) == LayerKnowledge(sources=((A if i % 2 else B),), size=i)


async def test_nothing_recorded_and_nothing_asked(index: MountIndex) -> None:
    """Empty calls are allowed and change nothing."""
    await index.record([])
    await index.forget(ONE)
    assert (await index.look_up([], DEST)).layers == {}


async def test_sha512_layers(index: MountIndex) -> None:
    """A layer can have a sha512 digest."""
    long = Digest.of(b"x", algorithm="sha512")
    await index.add_source(long, A)
    assert await index.sources(long, DEST) == (A,)


@pytest.mark.parametrize("size", [0, 1, 2**31, 2**53 + 1, 2**63 - 1])
async def test_sizes_are_kept(index: MountIndex, size: int) -> None:
    """A size is stored exactly, and a sighting without a size keeps it."""
    await index.record([Sighting(ONE, A, size=size)])
    await index.record([Sighting(ONE, B)])
    assert (await index.look_up([ONE], DEST)).of(ONE).size == size


async def test_forgetting_a_source(index: MountIndex) -> None:
    """A forgotten source is unknown for every destination, and the others stay."""
    await index.record([Sighting(ONE, place, size=3) for place in (A, B, OTHER)])
    await index.forget(ONE, A)
    await index.forget(ONE, A, C)
    assert await index.sources(ONE, DEST) == (B,)
    await index.forget(ONE, B, OTHER)
    assert await index.locations(ONE) == ()
    assert (await index.look_up([ONE], DEST)).of(ONE) == LayerKnowledge()


async def test_a_registry_without_sources_is_not_elsewhere(index: MountIndex) -> None:
    """A registry without sources is not in `elsewhere`; the size stays while another source exists."""
    await index.record([Sighting(ONE, A, size=3), Sighting(ONE, OTHER)])
    await index.forget(ONE, OTHER)
    assert (await index.look_up([ONE], DEST)).of(ONE) == LayerKnowledge(sources=(A,), size=3)


async def test_forgetting_what_is_unknown(index: MountIndex) -> None:
    """Forgetting an unknown source changes nothing."""
    await index.add_source(ONE, A)
    await index.forget(UNKNOWN, A)
    await index.forget(ONE, OTHER)
    assert await index.locations(ONE) == (A,)


async def test_a_forgotten_source_can_come_back(index: MountIndex) -> None:
    """A source that is recorded after it was forgotten is known again."""
    await index.add_source(ONE, A)
    await index.forget(ONE, A)
    await index.add_source(ONE, A)
    assert await index.sources(ONE, DEST) == (A,)


async def test_traits_of_a_registry(index: MountIndex) -> None:
    """Traits of a registry are merged, newer ones replace older ones, and registries are independent."""
    await index.record_traits("r.example", RegistryTraits(mounts=True))
    await index.record_traits("R.EXAMPLE:443", RegistryTraits(finds=False, after_manifest=True))
    await index.record_traits("r.example", RegistryTraits(after_manifest=False))
    await index.record_traits("r.example", RegistryTraits())
    traits = (await index.look_up([], DEST)).traits
    assert traits == RegistryTraits(mounts=True, finds=False, after_manifest=False)
    assert (await index.look_up([], OTHER)).traits == RegistryTraits()


async def test_a_registry_that_was_untruthful_once_stays_so(index: MountIndex) -> None:
    """A true 201 does not make up for one that was not; other traits are recorded on."""
    await index.record_traits("r.example", RegistryTraits(truthful=True))
    assert (await index.look_up([], DEST)).traits.truthful is True
    await index.record_traits("r.example", RegistryTraits(truthful=False))
    await index.record_traits("r.example", RegistryTraits(mounts=True, truthful=True))
    assert (await index.look_up([], DEST)).traits == RegistryTraits(mounts=True, truthful=False)


async def test_traits_of_no_registry(index: MountIndex) -> None:
    """The name of a registry is validated before it becomes part of a key."""
    for traits in (RegistryTraits(), RegistryTraits(mounts=True)):
        with pytest.raises(InvalidReferenceError):
            await index.record_traits("no{registry}", traits)


async def test_used_by_many_tasks_at_once(index: MountIndex) -> None:
    """Concurrent calls do not disturb each other."""
    layers = [layer(i) for i in range(30)]
    await asyncio.gather(*(index.record([Sighting(one, A), Sighting(one, OTHER)]) for one in layers))
    found = await asyncio.gather(*(index.locations(one) for one in layers))
    assert found == [(OTHER, A)] * len(layers)


@pytest.mark.parametrize("kind", ["fake", "valkey"])
async def test_memory_over_redis_merges_both(kind: str, request: pytest.FixtureRequest) -> None:
    """A backing index and the one in memory are merged; new entries stay in memory, corrections reach both."""
    server = fakeredis.FakeServer()
    link = (
        async_link_to(fakeredis.FakeRedis(server=server))
        if kind == "fake"
        else async_link(request.getfixturevalue("valkey").unix_url)
    )
    async with RedisMountIndex(link, keys=KEYS) as below, MemoryMountIndex(below) as above:
        await below.record([Sighting(ONE, A, size=3), Sighting(ONE, OTHER)])
        await below.record_traits("r.example", RegistryTraits(mounts=True, finds=True))
        await above.record([Sighting(ONE, B, size=4, must_mount=True), Sighting(ONE, DEST)])
        await above.record_traits("r.example", RegistryTraits(finds=False))
        knowledge = await above.look_up([ONE], DEST)
        assert knowledge.of(ONE) == LayerKnowledge((A, B), True, ("other.example:5000",), True, 4)
        assert knowledge.traits == RegistryTraits(mounts=True, finds=False)
        assert await above.locations(ONE) == (OTHER, A, B, DEST)
        assert await below.locations(ONE) == (OTHER, A)
        assert not await below.must_mount(ONE)
        await below.add_source(ONE, C, must_mount=True)
        await above.clear_must_mount(ONE)
        await above.forget(ONE, A, B)
        assert not await below.must_mount(ONE)
        assert await above.sources(ONE, DEST) == await below.sources(ONE, DEST) == (C,)
