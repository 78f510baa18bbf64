"""Less than a whole index: none at all, and one of the seed's four methods, widened."""

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
async def test_no_index_knows_nothing(call: str) -> None:
    """The index that stands for none answers as one that knows nothing, and keeps nothing."""
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
    """An index with the seed's four methods serves as a whole one, as far as those carry."""
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
    """Such an index can be guarded, and lie under one in memory."""
    four = FourMethods()
    await four.add_source(ONE, A)
    for index in (GuardedIndex(four), MemoryMountIndex(four)):
        assert await index.sources(ONE, DEST) == (A,)
        assert await index.is_mountable(ONE, DEST)
