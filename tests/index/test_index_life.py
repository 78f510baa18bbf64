"""Expiry of entries: the part of the contract of every index that depends on time."""

from crossmount.index import (
    LayerKnowledge,
    RegistryTraits,
    Sighting,
)
from support.index_kit import TTL, Store, layer, repo

A, B, DEST = repo("team/a"), repo("team/b"), repo("team/dest")
OTHER = repo("other.example:5000/team/a")
ONE = layer(1)


async def test_entries_expire(store: Store) -> None:
    """After its time to live a layer is unknown, with its size and its registries."""
    index = store.index
    await index.record([Sighting(ONE, A, size=3), Sighting(ONE, OTHER)])
    store.age(TTL - 100)
    assert await index.sources(ONE, DEST) == (A,)
    store.age(200)
    assert (await index.look_up([ONE], DEST)).of(ONE) == LayerKnowledge()
    assert await index.locations(ONE) == ()


async def test_recording_again_renews(store: Store) -> None:
    """A record renews the sources of its registry, and of no other."""
    index = store.index
    await index.record([Sighting(ONE, A, size=3), Sighting(ONE, OTHER)])
    store.age(TTL - 100)
    await index.record([Sighting(ONE, B)])
    store.age(200)
    assert (await index.look_up([ONE], DEST)).of(ONE) == LayerKnowledge(sources=(A, B), size=3)
    assert await index.locations(ONE) == (A, B)


async def test_a_size_is_removed_with_the_last_live_source(store: Store) -> None:
    """When the last live source is forgotten, the size is removed too."""
    index = store.index
    await index.record([Sighting(ONE, OTHER, size=3)])
    store.age(TTL - 100)
    await index.record([Sighting(ONE, A)])
    store.age(200)
    await index.forget(ONE, A)
    assert (await index.look_up([ONE], DEST)).of(ONE) == LayerKnowledge()


async def test_must_mount_does_not_expire(store: Store) -> None:
    """The flag outlives its sources and their size; when it is cleared then, nothing is left."""
    index = store.index
    await index.record([Sighting(ONE, A, size=3, must_mount=True)])
    store.age(TTL * 100)
    assert (await index.look_up([ONE], DEST)).of(ONE) == LayerKnowledge(must_mount=True)
    await index.clear_must_mount(ONE)
    assert (await index.look_up([ONE], DEST)).of(ONE) == LayerKnowledge()


async def test_cleared_layers_expire(store: Store) -> None:
    """A layer whose flag was cleared lives as long as its sources."""
    index = store.index
    await index.record([Sighting(ONE, A, size=3, must_mount=True)])
    store.age(TTL - 100)
    await index.clear_must_mount(ONE)
    assert (await index.look_up([ONE], DEST)).of(ONE) == LayerKnowledge(sources=(A,), size=3)
    store.age(200)
    assert (await index.look_up([ONE], DEST)).of(ONE) == LayerKnowledge()


async def test_traits_expire(store: Store) -> None:
    """Traits of a registry expire after some hours."""
    await store.index.record_traits("r.example", RegistryTraits(mounts=True))
    store.age(5 * 3600)
    assert (await store.index.look_up([], DEST)).traits.mounts
    store.age(2 * 3600)
    assert (await store.index.look_up([], DEST)).traits == RegistryTraits()
