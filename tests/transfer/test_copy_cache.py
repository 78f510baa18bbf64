"""Copies through the blob cache: a blob is fetched once and verified; a failing cache is bypassed."""

import asyncio
import errno
import fcntl
import json
import os
from pathlib import Path
from typing import Any

import pytest

from crossmount import events
from crossmount.errors import CopyFailedError
from crossmount.oci import Digest
from crossmount.testing import Alter, Fault, ScriptedRegistry
from crossmount.transfer import cache_fetch
from crossmount.transfer.cache import BlobCache
from crossmount.transfer.copy import copy
from crossmount.transfer.report import CopyReport
from support.copies import OPTIONS, gets, is_whole
from support.images import MadeImage, make_layers, make_layout
from support.waiting import until


@pytest.fixture
def image(tmp_path: Path) -> MadeImage:
    """An image of three layers, each larger than one read of the cache."""
    return make_layout(tmp_path / "image", make_layers(3, size=1_500_000))


async def through(folder: Path, source: ScriptedRegistry, *dests: ScriptedRegistry, **how: Any) -> CopyReport:
    """Copy team/app:1 to app on each of `dests` through a cache."""
    targets = [f"{dest.address}/app" for dest in dests]
    given = {"cache": BlobCache(folder), "options": OPTIONS, **how}
    return await copy(f"{source.address}/team/app:1", *targets, **given)


def cached(folder: Path) -> dict[str, bytes]:
    """Return the blobs of a cache by their hex digest."""
    return {path.name: path.read_bytes() for path in (folder / "blobs" / "sha256").iterdir()}


async def test_a_layer_is_fetched_once_for_many_destinations(
    a: ScriptedRegistry, b: ScriptedRegistry, c: ScriptedRegistry, image: MadeImage, tmp_path: Path
) -> None:
    """A copy to two registries fetches each layer once, and the cache is a layout with the same bytes."""
    folder = tmp_path / "cache"
    report = await through(folder, a, b, c)
    assert is_whole(b, "app", image)
    assert is_whole(c, "app", image)
    assert [gets(a, blob.digest) for blob in image.blobs] == [1] * len(image.blobs)
    assert report.fetched == sum(blob.size for blob in image.blobs)
    assert all(Digest.of(data).encoded == name for name, data in cached(folder).items())
    assert json.loads((folder / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    assert json.loads((folder / "index.json").read_text())["manifests"] == []
    assert list((folder / "incoming").iterdir()) == []


async def test_a_cached_blob_is_not_fetched_again(
    a: ScriptedRegistry, b: ScriptedRegistry, c: ScriptedRegistry, image: MadeImage, tmp_path: Path
) -> None:
    """A later copy reads from the cache, and its report says so."""
    await through(tmp_path / "cache", a, b)
    a.requests.clear()
    report = await through(tmp_path / "cache", a, c)
    assert gets(a) == 0
    assert is_whole(c, "app", image)
    assert {blob.fetched_from for blob in report.copied[0].blobs} == {"cache"}
    assert report.fetched == 0


@pytest.mark.parametrize("damage", ["flipped", "cut", "longer"])
async def test_a_damaged_file_is_noticed_and_fetched_again(
    a: ScriptedRegistry, b: ScriptedRegistry, c: ScriptedRegistry, image: MadeImage, tmp_path: Path, damage: str
) -> None:
    """A damaged blob of the cache completes no upload: it is removed, fetched again, and correct then."""
    folder = tmp_path / "cache"
    await through(folder, a, b)
    layer = image.layers[1].digest
    path = folder / "blobs" / "sha256" / layer.encoded
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes({"flipped": data, "cut": data[:-1], "longer": data + b"x"}[damage])
    a.requests.clear()
    await through(folder, a, c)
    assert is_whole(c, "app", image)
    assert [gets(a, blob.digest) for blob in image.layers] == [0, 1, 0]
    assert Digest.of(path.read_bytes()) == layer
    assert c.open_sessions == ()


async def test_wrong_bytes_are_never_cached(
    a: ScriptedRegistry, b: ScriptedRegistry, image: MadeImage, tmp_path: Path
) -> None:
    """A source that sends wrong bytes fails the copy, and nothing is cached."""
    layer = image.layers[0].digest
    a.play(Fault(method="GET", path=f"*/blobs/{layer}", action=Alter(corrupt=True), times=None))
    with pytest.raises(CopyFailedError, match=f"{a.address}/team/app sent bytes .* {layer}"):
        await through(tmp_path / "cache", a, b)
    assert layer.encoded not in cached(tmp_path / "cache")
    assert list((tmp_path / "cache" / "incoming").iterdir()) == []
    assert b.holdings.blob("app", layer) is None
    assert gets(a, layer) == 1


@pytest.mark.parametrize("call", ["ftruncate", "pwrite", "fsync"])
async def test_a_full_disk_bypasses_the_cache(
    a: ScriptedRegistry,
    b: ScriptedRegistry,
    image: MadeImage,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
) -> None:
    """If the cache fails, the copy continues, reports the cause once, and leaves no incomplete blob."""
    seen: list[events.Event] = []

    def full(*arguments: object) -> int:
        del arguments
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(f"crossmount.transfer.cache.os.{call}", full)
    await through(tmp_path / "cache", a, b, observer=seen.append)
    assert is_whole(b, "app", image)
    (said,) = [event for event in seen if isinstance(event, events.CacheDegraded)]
    assert said.cause == f"{tmp_path / 'cache'}: No space left on device"
    assert cached(tmp_path / "cache") == {}
    assert list((tmp_path / "cache" / "incoming").iterdir()) == []


async def test_a_cache_that_cannot_be_created_is_bypassed(
    a: ScriptedRegistry, b: ScriptedRegistry, image: MadeImage, tmp_path: Path
) -> None:
    """A file in place of the cache's folder does not fail a copy."""
    (tmp_path / "cache").write_text("a file")
    seen: list[events.Event] = []
    await through(tmp_path / "cache", a, b, observer=seen.append)
    assert is_whole(b, "app", image)
    assert sum(isinstance(event, events.CacheDegraded) for event in seen) == 1


async def test_a_blob_larger_than_the_cache_bypasses_it(
    a: ScriptedRegistry, b: ScriptedRegistry, image: MadeImage, tmp_path: Path
) -> None:
    """A blob larger than the cache's limit is streamed without a warning."""
    seen: list[events.Event] = []
    store = BlobCache(tmp_path / "cache", limit=100_000)
    await through(tmp_path / "cache", a, b, cache=store, observer=seen.append)
    assert is_whole(b, "app", image)
    assert set(cached(tmp_path / "cache")) == {image.configs[0].digest.encoded}
    assert not any(isinstance(event, events.CacheDegraded) for event in seen)


async def test_the_limit_holds_after_a_copy(
    a: ScriptedRegistry, b: ScriptedRegistry, image: MadeImage, tmp_path: Path
) -> None:
    """After a copy of more than its limit the cache is within its limit."""
    store = BlobCache(tmp_path / "cache", limit=2_000_000)
    await through(tmp_path / "cache", a, b, cache=store)
    assert is_whole(b, "app", image)
    assert sum(map(len, cached(tmp_path / "cache").values())) <= 2_000_000


async def test_another_process_is_waited_for(
    a: ScriptedRegistry, b: ScriptedRegistry, image: MadeImage, tmp_path: Path
) -> None:
    """While another process fetches a blob it is not fetched twice; afterwards it is read from the cache."""
    store, layer = BlobCache(tmp_path / "cache"), image.layers[0]
    other = store.begin(layer)
    assert other is not None
    copying = asyncio.create_task(through(tmp_path / "cache", a, b))
    await until(lambda: b.uploads(image.layers[1].digest) == 1)
    assert gets(a, layer.digest) == 0
    other.write(image.blob_path(layer.digest).read_bytes(), 0)
    other.keep()
    os.close(other.fileno)
    await copying
    assert gets(a, layer.digest) == 0
    assert is_whole(b, "app", image)


async def test_a_stopped_process_is_not_waited_for(
    a: ScriptedRegistry, b: ScriptedRegistry, image: MadeImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a stopped process keeps its lock, the bytes bypass the cache."""
    monkeypatch.setattr(cache_fetch, "STUCK_SECONDS", 0.2)
    stopped = BlobCache(tmp_path / "cache").begin(image.layers[0])
    assert stopped is not None
    await through(tmp_path / "cache", a, b)
    assert is_whole(b, "app", image)
    fcntl.flock(stopped.fileno, fcntl.LOCK_UN)
    stopped.discard()


async def test_a_cancelled_copy_leaves_nothing_incoming(
    a: ScriptedRegistry, b: ScriptedRegistry, tmp_path: Path
) -> None:
    """Ctrl-C during a download removes the incomplete blob."""
    a.play(Fault(method="GET", path="*/blobs/*", delay=30.0, times=None))
    task = asyncio.create_task(through(tmp_path / "cache", a, b))
    incoming = tmp_path / "cache" / "incoming"
    await until(lambda: incoming.exists() and any(incoming.iterdir()))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert list((tmp_path / "cache" / "incoming").iterdir()) == []
    assert b.open_sessions == ()
