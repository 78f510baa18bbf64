"""What is uploaded is at most what this caller could not have mounted from any repository that the index knows."""

import asyncio
import tempfile
from dataclasses import replace
from pathlib import Path

from hypothesis import given

from crossmount.asyncio import Digest
from promises.image import content_of
from promises.known import Oracle, excluded, tried
from promises.play import Ending, mountable, push_with_index, push_without
from promises.worlds import HOSTILE, Family, World, worlds
from support.servers import Server

ORACLE: Oracle = "no byte too many"
UNPROMISED = frozenset(
    {
        Family.INDEX_OFF,
        Family.INDEX_GONE,
        Family.INDEX_SILENT,
        Family.STRANGE_TYPES,
        Family.WRONG_TRAITS,
    }
)
"""Without the index's true word on sources and on the registry a push may upload what it could have mounted."""

ASKED = frozenset(
    {
        Family.SHA512,
        Family.DUPLICATES,
        Family.SHARED,
        Family.PLATFORMS,
        Family.BASIC,
        Family.TOKEN,
        Family.UNREADABLE,
        Family.HIDDEN,
        Family.STALE,
        Family.FINDS,
        Family.NO_DELETE,
        Family.RELATIVE,
    }
)
"""Families in which requests are counted: the registry mounts, and the index is right or outdated."""
COST = 6
"""Requests for a source from which nothing can be mounted: a token, the mount, the end of its session, and why it
failed: a token, HEAD of the blob, and whether the repository can be read."""
LAST = 2
"""Requests for a layer whose sources failed: whether the registry finds it, and the end of that session."""


@tried(ORACLE, 50)
@given(world=worlds(without=excluded(ORACLE), never=HOSTILE | UNPROMISED))
def test_nothing_is_uploaded_that_can_be_mounted(world: World, valkey_process: Server) -> None:
    """Other blobs arrive once; the one whose upload is cut may arrive once more."""
    content = content_of(world)
    can_mount, ours, should_succeed = asyncio.run(_push(world, valkey_process))
    in_dest = {digest for layer, (digest, _) in zip(world.layers, content.layers, strict=True) if layer.in_dest}
    sizes = {digest: len(data) for digest, data in content.blobs.items()}
    needed = sizes.keys() - in_dest - can_mount
    cut = content.layers[world.cut % len(content.layers)][0] if Family.CUT in world else None
    twice = sizes[cut] if cut in needed else 0
    in_vain = {digest: count for digest, count in ours.uploads.items() if digest not in needed and count}
    assert not in_vain
    assert not ours.untrue
    flagged = {digest for layer, (digest, _) in zip(world.layers, content.layers, strict=True) if layer.must_mount}
    assert not [digest for digest in flagged if ours.uploads[digest]]
    assert ours.received <= sum(sizes[digest] for digest in needed) + twice
    assert ours.error is None or not should_succeed


@tried("few requests", 20)
@given(world=worlds(without=excluded("few requests"), never=frozenset(Family) - ASKED))
def test_the_index_costs_few_requests(world: World, valkey_process: Server) -> None:
    """With the index a push makes one more, `COST` for each source that is of no use, and `LAST` for its layer."""
    with_index, without = asyncio.run(_count(world, valkey_process))
    wrong = [len(layer.stale) + len(layer.unreadable) for layer in world.layers]
    assert with_index <= without + 1 + COST * sum(wrong) + LAST * sum(1 for each in wrong if each)


async def _count(world: World, server: Server) -> tuple[int, int]:
    """Return how many requests our push makes with the world's index, and without one."""
    content, counts = content_of(world), []
    for each in (world, replace(world, families=world.families | {Family.INDEX_OFF})):
        with tempfile.TemporaryDirectory(prefix="cm-world-") as folder:
            counts.append((await push_with_index(each, content, server, Path(folder))).requests)
    return counts[0], counts[1]


async def _push(world: World, server: Server) -> tuple[frozenset[Digest], Ending, bool]:
    """Return what can be mounted, how our push ended, and whether it has all that it takes to succeed."""
    content = content_of(world)
    can_mount = await mountable(world, content)
    with tempfile.TemporaryDirectory(prefix="cm-world-") as folder:
        ours = await push_with_index(world, content, server, Path(folder))
    whole = replace(world, layers=tuple(replace(layer, missing=False) for layer in world.layers))
    should_succeed = all(
        layer.in_dest
        or (digest in can_mount and (layer.known or not layer.missing))
        or not (layer.missing or layer.must_mount)
        for layer, (digest, _) in zip(world.layers, content.layers, strict=True)
    )
    if should_succeed and ours.error is not None:
        should_succeed = (await push_without(whole, content)).error is None
    return can_mount, ours, should_succeed
