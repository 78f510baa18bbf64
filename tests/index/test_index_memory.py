"""Promises of the index in memory beyond the contract of all indexes."""

import random

from crossmount.index import MemoryMountIndex, Sighting
from support.index_kit import layer, repo

ONE, DEST = layer(1), repo("team/dest")


async def test_at_the_bound_a_new_source_replaces_an_old_one() -> None:
    """At the bound a new source replaces an old one, and is never the one removed."""
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
    """With the same random generator the same sources are replaced."""
    kept = []
    for _ in range(2):
        index = MemoryMountIndex(bound=3, rng=random.Random(11))  # noqa: S311 no secret hangs on it
        await index.record(Sighting(ONE, repo(f"team/n{number}")) for number in range(50))
        kept.append(await index.sources(ONE, DEST))
    assert kept[0] == kept[1]
