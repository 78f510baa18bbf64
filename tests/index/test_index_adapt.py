"""Smaller indexes: the null index, and an index with only four methods."""

import pytest

from crossmount.index import (
    GuardedIndex,
    Knowledge,
    LayerKnowledge,
    MemoryMountIndex,
    MountIndex,
    RegistryTraits,
    Sighting,
    adapt,
    null_index,
)
from support.guards import CALLS, DEST, ONE, A
from support.index_kit import FourMethods, layer, repo


@pytest.mark.parametrize("call", CALLS)
async def test_the_null_index_knows_nothing(call: str) -> None:
    """The null index knows nothing and keeps nothing."""
    index = null_index()
    assert isinstance(index, MountIndex)
    await index.record([Sighting(ONE, A, must_mount=True)])
    await index.record_traits("r.example", RegistryTraits(mounts=True))
    do, nothing = CALLS[call]
    answer = await do(index)
    if isinstance(answer, Knowledge):
        assert answer == Knowledge({ONE: LayerKnowledge()})
    else:
        assert answer == nothing


async def test_four_methods_are_enough() -> None:
    """An index with four methods works as a full index, as far as these methods allow."""
    index = adapt(FourMethods())
    assert adapt(index) is index
    await index.add_source(ONE, A)
    await index.record([Sighting(ONE, DEST, size=3, must_mount=True)])
    known = (await index.look_up([ONE, layer(2)], DEST)).of(ONE)
    assert (known.sources, known.in_dest, known.must_mount, known.size) == ((A,), True, True, None)
    assert (await index.look_up([layer(2)], DEST)).of(layer(2)).sources == ()
    assert await index.is_mountable(ONE, repo("x"))
    assert await index.must_mount(ONE)
    await index.forget(ONE, A)
    await index.clear_must_mount(ONE)
    await index.record_traits("r.example", RegistryTraits(mounts=True))
    await index.aclose()
    assert await index.sources(ONE, DEST) == (A,)
    assert await index.must_mount(ONE)
    assert await index.locations(ONE) == ()


async def test_four_methods_under_a_guard_and_under_memory() -> None:
    """An index with four methods can be guarded, and back an index in memory."""
    four = FourMethods()
    await four.add_source(ONE, A)
    for index in (GuardedIndex(four), MemoryMountIndex(four)):
        assert await index.sources(ONE, DEST) == (A,)
        assert await index.is_mountable(ONE, DEST)
