"""How long an index believes what it was told: the part of every index's contract that takes time."""

from crossmount.index import (
    LayerKnowledge,
    RegistryTraits,
    Sighting,
)
from support.index_kit import TTL, Store, layer, repo

A, B, DEST = repo("team/a"), repo("team/b"), repo("team/dest")
OTHER = repo("other.example:5000/team/a")
ONE = layer(1)


async def test_what_is_not_renewed_runs_out(store: Store) -> None:
    """After its time to live a layer is unknown again, its size and its registries too."""
    index = store.index
    await index.record([Sighting(ONE, A, size=3), Sighting(ONE, OTHER)])
    store.age(TTL - 100)
    assert await index.sources(ONE, DEST) == (A,)
    store.age(200)
    assert (await index.look_up([ONE], DEST)).of(ONE) == LayerKnowledge()
    assert await index.locations(ONE) == ()


async def test_recording_again_renews(store: Store) -> None:
    """Each recording gives a registry's sources their whole life again, and no other registry's."""
    index = store.index
    await index.record([Sighting(ONE, A, size=3), Sighting(ONE, OTHER)])
    store.age(TTL - 100)
    await index.record([Sighting(ONE, B)])
    store.age(200)
    assert (await index.look_up([ONE], DEST)).of(ONE) == LayerKnowledge(sources=(A, B), size=3)
    assert await index.locations(ONE) == (A, B)


async def test_a_size_goes_with_the_last_live_source(store: Store) -> None:
    """Forgetting the last source that has not run out forgets the size too."""
    index = store.index
    await index.record([Sighting(ONE, OTHER, size=3)])
    store.age(TTL - 100)
    await index.record([Sighting(ONE, A)])
    store.age(200)
    await index.forget(ONE, A)
    assert (await index.look_up([ONE], DEST)).of(ONE) == LayerKnowledge()


async def test_must_mount_does_not_run_out(store: Store) -> None:
    """The flag stays when its sources have run out; cleared then, nothing is left."""
    index = store.index
    await index.record([Sighting(ONE, A, size=3, must_mount=True)])
    store.age(TTL * 100)
    assert (await index.look_up([ONE], DEST)).of(ONE) == LayerKnowledge(must_mount=True, size=3)
    await index.clear_must_mount(ONE)
    assert (await index.look_up([ONE], DEST)).of(ONE) == LayerKnowledge()


async def test_cleared_layers_run_out(store: Store) -> None:
    """A layer whose flag was cleared lives as long as its sources, no longer."""
    index = store.index
    await index.record([Sighting(ONE, A, size=3, must_mount=True)])
    store.age(TTL - 100)
    await index.clear_must_mount(ONE)
    assert (await index.look_up([ONE], DEST)).of(ONE) == LayerKnowledge(sources=(A,), size=3)
    store.age(200)
    assert (await index.look_up([ONE], DEST)).of(ONE) == LayerKnowledge()


async def test_traits_run_out(store: Store) -> None:
    """What was seen of a registry is believed for some hours."""
    await store.index.record_traits("r.example", RegistryTraits(mounts=True))
    store.age(5 * 3600)
    assert (await store.index.look_up([], DEST)).traits.mounts
    store.age(2 * 3600)
    assert (await store.index.look_up([], DEST)).traits == RegistryTraits()
