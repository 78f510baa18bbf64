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
UNPROMISED = (HOSTILE - {Family.INDEX_PASSWORD, Family.INDEX_WRONG_PASSWORD}) | {Family.MUST_MOUNT}
"""An operator who forbids an upload wants another outcome than that of a plain push."""


@tried(ORACLE, 50)
@given(world=worlds(without=excluded(ORACLE), never=UNPROMISED))
def test_the_index_changes_no_outcome(world: World, valkey_process: Server) -> None:
    """Whenever a plain push succeeds, ours does, tags only what is whole, and writes only what is true."""
    _check(world, *asyncio.run(_both(world, valkey_process)))


@tried(ORACLE, 12)
@given(world=worlds(without=excluded(ORACLE), never=UNPROMISED | {Family.SPARSE}))
def test_the_index_changes_no_outcome_of_a_copy(world: World, valkey_process: Server) -> None:
    """Whenever a plain push of the image succeeds, our copy of it from another registry does."""
    _check(world, *asyncio.run(_both(world, valkey_process, copies=True)))


def _check(world: World, plain: Ending, ours: Ending) -> None:
    assert ours.stray == ()
    assert not ours.untrue
    if plain.error is None:
        assert ours.error is None
        assert (ours.tag, ours.manifests, ours.blobs) == (plain.tag, plain.manifests, plain.blobs)
    elif ours.error is None:
        content = content_of(world)
        assert ours.blobs == frozenset(content.blobs)
        assert ours.tag is not None
    else:
        assert ours.tag is None


async def _both(world: World, server: Server, *, copies: bool = False) -> tuple[Ending, Ending]:
    content = content_of(world)
    plain = await push_without(world, content)
    with tempfile.TemporaryDirectory(prefix="cm-world-") as folder:
        return plain, await push_with_index(world, content, server, Path(folder), copies=copies)
