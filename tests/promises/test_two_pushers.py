"""Two pushers that start at once end as one does, and upload a layer that is worth a wait once."""

import asyncio
import tempfile
from pathlib import Path

from hypothesis import given

from crossmount.asyncio import Digest
from promises.image import content_of
from promises.known import Oracle, excluded, tried
from promises.play import Ending, push_both
from promises.worlds import HEAVY, Family, World, worlds
from support.servers import Server

ORACLE: Oracle = "once in the fleet"
CALM = frozenset(
    {
        Family.SHA512,
        Family.DUPLICATES,
        Family.SHARED,
        Family.PLATFORMS,
        Family.BASIC,
        Family.TOKEN,
        Family.REFUSES_WHOLE,
        Family.FIRST_SCOPE,
        Family.NO_DELETE,
        Family.FINDS,
        Family.RELATIVE,
        Family.WRONG_SIZES,
        Family.STALE,
    }
)
"""Families in which the two learn of each other: the registry mounts, and the index answers."""


@tried(ORACLE, 12)
@given(world=worlds(without=excluded(ORACLE), never=frozenset(Family) - CALM))
def test_two_at_once_upload_a_large_layer_once(world: World, valkey_process: Server) -> None:
    """Both tags name the whole image, and each large layer is uploaded by one of the two."""
    content = content_of(world)
    endings = asyncio.run(_push(world, valkey_process))
    for ending in endings:
        assert ending.tag == Digest.of(content.manifests[-1][1])
        assert ending.blobs == frozenset(content.blobs)
    heavy = [digest for digest, data in content.blobs.items() if len(data) >= HEAVY]
    assert not [digest for digest in heavy if endings[0].uploads[digest] > 1]


async def _push(world: World, server: Server) -> tuple[Ending, Ending]:
    with tempfile.TemporaryDirectory(prefix="cm-world-") as folder:
        return await push_both(world, content_of(world), server, Path(folder))
