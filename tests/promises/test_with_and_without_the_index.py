"""With the index, a push ends as a plain push does, with the same manifests and blobs, whatever the index says."""

import asyncio
import tempfile
from pathlib import Path

from hypothesis import given

from promises.image import content_of
from promises.known import Oracle, excluded, tried
from promises.play import Ending, push_with_index, push_without
from promises.worlds import HOSTILE, Family, World, worlds
from support.servers import Server

ORACLE: Oracle = "with = without"


@tried(ORACLE, 50)
@given(
    world=worlds(without=excluded(ORACLE), never=HOSTILE - {Family.INDEX_PASSWORD, Family.INDEX_WRONG_PASSWORD})
)
def test_the_index_changes_no_outcome(world: World, valkey_process: Server) -> None:
    """Whenever a plain push succeeds, ours does; a tag of ours is there only with all its blobs."""
    plain, ours = asyncio.run(_both(world, valkey_process))
    assert ours.stray == ()
    if plain.error is None:
        assert ours.error is None
        assert (ours.tag, ours.manifests, ours.blobs) == (plain.tag, plain.manifests, plain.blobs)
    elif ours.error is None:
        content = content_of(world)
        assert ours.blobs == frozenset(content.blobs)
        assert ours.tag is not None
    else:
        assert ours.tag is None


async def _both(world: World, server: Server) -> tuple[Ending, Ending]:
    content = content_of(world)
    plain = await push_without(world, content)
    with tempfile.TemporaryDirectory(prefix="cm-world-") as folder:
        return plain, await push_with_index(world, content, server, Path(folder))
