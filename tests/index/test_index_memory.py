"""What the index in memory promises beyond the contract."""

import random

from crossmount.index import MemoryMountIndex, Sighting
from support.index_kit import layer, repo

ONE, DEST = layer(1), repo("team/dest")


async def test_past_the_bound_an_old_source_makes_way_in_memory() -> None:
    """A layer keeps as many sources a registry as the bound says; the newest is always among them."""
    index = MemoryMountIndex(bound=3, rng=random.Random(7))  # noqa: S311 no secret hangs on it
    for number in range(20):
        newest = repo(f"team/n{number:02}")
        await index.add_source(ONE, newest)
        sources = await index.sources(ONE, DEST)
        assert newest in sources
        assert len(sources) == min(number + 1, 3)
    await index.record([Sighting(ONE, repo("o.example/x"))])
    assert len(await index.locations(ONE)) == 4


async def test_chance_is_an_argument() -> None:
    """With the same randomness the same sources make way."""
    kept = []
    for _ in range(2):
        index = MemoryMountIndex(bound=3, rng=random.Random(11))  # noqa: S311 no secret hangs on it
        await index.record(Sighting(ONE, repo(f"team/n{number}")) for number in range(50))
        kept.append(await index.sources(ONE, DEST))
    assert kept[0] == kept[1]
