"""Mounts in trouble: slow cancellations, failing checks, broken registries and wrong traits."""

import asyncio
import gc
import logging
from pathlib import Path

import pytest

from crossmount.errors import IndexUnavailableError
from crossmount.index import MemoryMountIndex, RegistryTraits
from crossmount.mount import Mounter
from crossmount.oci import Digest, Located, Repository
from crossmount.registry import ClientOptions, RegistryClient, RetryPolicy
from crossmount.testing import Alter, Fault, IgnoreMount, Reply, ScriptedRegistry
from crossmount.transfer.push import push
from support.images import make_layers, make_layout
from support.waiting import until

OPTIONS = ClientOptions(plain_http=True)
RETRIES = RetryPolicy(attempts=3, outage=0.0, wait_initial=0.01, wait_max=0.02)


async def test_a_cancel_that_hangs_delays_no_mount(scripted_registry: ScriptedRegistry) -> None:
    """The cancellation of an unused session does not delay the mount."""
    index = MemoryMountIndex()
    layer = Digest.of(b"layer")
    at = scripted_registry.address
    for i in range(3):
        await index.add_source(layer, Repository.parse(f"{at}/team/gone-{i}"))
    scripted_registry.play(Fault(method="DELETE", times=None, delay=3600))
    async with RegistryClient(at, options=OPTIONS) as client:
        mounter = Mounter(client, index)
        result = await mounter.mount(layer, Repository.parse(f"{at}/team/a"))
        assert result.session is not None


async def test_a_mount_that_is_cancelled_leaves_no_session(scripted_registry: ScriptedRegistry) -> None:
    """A session that the registry opens while the mount is cancelled is cancelled too."""
    layer, at = Digest.of(b"layer"), scripted_registry.address
    scripted_registry.play(Fault(method="POST", action=Alter(), delay=0.3))
    async with (
        RegistryClient(at, options=OPTIONS) as client,
        Mounter(client, MemoryMountIndex()) as mounter,
    ):
        task = asyncio.create_task(mounter.mount(layer, Repository.parse(f"{at}/team/a")))
        await until(lambda: scripted_registry.underway == 1)
        task.cancel()
        await asyncio.wait([task])
    assert len(scripted_registry.matching(method="POST")) == 1
    assert scripted_registry.open_sessions == ()


class FailingIndex(MemoryMountIndex):
    """An index that fails when it should forget a source."""

    async def forget(self, layer: str, *sources: str | Located) -> None:
        """Raise an error."""
        raise IndexUnavailableError(f"gone, with {layer} and {sources}")


async def test_an_index_that_fails_in_a_background_check_leaves_no_unread_error(
    scripted_registry: ScriptedRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    """An unguarded index that fails in a background check leaves no unretrieved task exception."""
    index, layer, at = FailingIndex(), Digest.of(b"layer"), scripted_registry.address
    await index.add_source(layer, Repository.parse(f"{at}/team/gone"))
    async with (
        RegistryClient(at, options=OPTIONS) as client,
        Mounter(client, index) as mounter,
    ):
        await mounter.mount(layer, Repository.parse(f"{at}/team/a"))
    del mounter
    gc.collect()
    assert [r for r in caplog.records if r.levelno >= logging.ERROR] == []


async def test_mounts_that_only_break_are_given_up_after_one_source(
    scripted_registry: ScriptedRegistry, tmp_path: Path
) -> None:
    """A registry that breaks on mounts costs a layer the retries of one request, not of one for each source."""
    image = make_layout(tmp_path / "image", make_layers(2, size=5000))
    index = MemoryMountIndex()
    for blob in image.blobs:
        for i in range(5):
            await index.add_source(blob.digest, Repository.parse(f"{scripted_registry.address}/team/{i}"))
    scripted_registry.play(Fault(method="POST", query="mount*", times=None, action=Reply(status=503)))
    dest = f"{scripted_registry.address}/team/a:1"
    options = ClientOptions(plain_http=True, retry=RETRIES)
    report = await push(image.path, dest, index=index, options=options)
    assert report.count("uploaded") == len(image.blobs)
    mounts = scripted_registry.matching(method="POST", query="mount*")
    assert len(mounts) == RETRIES.attempts * len(image.blobs)


async def test_one_mount_refused_among_many_that_succeeded_condemns_no_registry(
    scripted_registry: ScriptedRegistry, tmp_path: Path
) -> None:
    """A registry that mounted in this push is not recorded as one that does not mount."""
    image = make_layout(tmp_path / "image", make_layers(4, size=5000))
    index = MemoryMountIndex()
    await push(image.path, f"{scripted_registry.address}/team/a:1", index=index, options=OPTIONS)
    scripted_registry.play(
        Fault(method="POST", query="*from=*", action=IgnoreMount()),
        Fault(method="HEAD", path="/v2/team/a/blobs/*", delay=0.3),
    )
    await push(image.path, f"{scripted_registry.address}/team/b:1", index=index, options=OPTIONS)
    dest = Repository.parse(f"{scripted_registry.address}/team/c")
    assert (await index.look_up([], dest)).traits.mounts is not False


async def test_a_hint_that_the_registry_does_not_mount_fails_no_must_mount(
    scripted_registry: ScriptedRegistry, tmp_path: Path
) -> None:
    """A must-mount layer is requested even if the index says that this registry does not mount."""
    image = make_layout(tmp_path / "image", make_layers(1, size=5000))
    index = MemoryMountIndex()
    source = Repository.parse(f"{scripted_registry.address}/team/a")
    await push(image.path, f"{source}:1", index=index, options=OPTIONS)
    await index.add_source(image.layers[0].digest, source, must_mount=True)
    await index.record_traits(source.registry, RegistryTraits(mounts=False))
    report = await push(image.path, f"{scripted_registry.address}/team/b:1", index=index, options=OPTIONS)
    assert report.count("mounted") == 1
