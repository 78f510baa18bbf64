import gc
import logging

import pytest

from crossmount.errors import IndexUnavailableError
from crossmount.index import MemoryMountIndex
from crossmount.mount import Mounter
from crossmount.oci import Digest, Located, Repository
from crossmount.registry import ClientOptions, RegistryClient
from crossmount.testing import ScriptedRegistry


class _Dying(MemoryMountIndex):
    """An index that fails when it should forget a source."""

    async def forget(self, layer: Digest, *sources: Located) -> None:
        raise IndexUnavailableError(f"gone, with {layer} and {sources}")


async def test_an_index_that_fails_in_a_background_check_leaves_no_unread_error(
    scripted_registry: ScriptedRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    """An unguarded index that fails in a background check leaves no unretrieved task exception."""
    index, layer, at = _Dying(), Digest.of(b"layer"), scripted_registry.address
    await index.add_source(layer, Repository.parse(f"{at}/team/gone"))
    async with (
        RegistryClient(at, options=ClientOptions(plain_http=True)) as client,
        Mounter(client, index) as mounter,
    ):
        await mounter.mount(layer, Repository.parse(f"{at}/team/a"))
    del mounter
    gc.collect()
    assert [r for r in caplog.records if r.levelno >= logging.ERROR] == []
