"""Other users who can write to a cache folder can damage the cache, and nothing else."""

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from crossmount.errors import CopyFailedError, InvalidInputError
from crossmount.oci import Descriptor, Digest
from crossmount.oci.descriptor import OCI_MANIFEST
from crossmount.testing import ScriptedRegistry
from crossmount.transfer import cache_fetch
from crossmount.transfer.cache import BlobCache
from crossmount.transfer.copy import CopySettings, copy, copy_all
from crossmount.transfer.image_copier import CopyJob
from crossmount.transfer.push import push
from crossmount.transfer.report import CopyReport
from support.copies import OPTIONS
from support.holdings import CONFIG, LAYER, entry, put_document, put_image
from support.images import MadeImage, make_layers, make_layout
from support.waiting import PATIENCE, until

DATA = b"data"
BLOB = Descriptor("application/octet-stream", Digest.of(DATA), len(DATA))


@pytest.fixture
def store(tmp_path: Path) -> BlobCache:
    """An existing, empty cache with a small limit."""
    made = BlobCache(tmp_path / "cache", limit=1000)
    incoming = made.begin(BLOB)
    assert incoming is not None
    incoming.discard()
    return made


@pytest.fixture
def image(tmp_path: Path) -> MadeImage:
    """A small image."""
    return make_layout(tmp_path / "image", make_layers(2, size=300))


@pytest.fixture
async def a(image: MadeImage) -> AsyncIterator[ScriptedRegistry]:
    """A registry with the image as app:1."""
    async with ScriptedRegistry() as registry:
        await push(image.path, f"{registry.address}/app:1", options=OPTIONS)
        yield registry


async def through(store: BlobCache, a: ScriptedRegistry, **how: Any) -> CopyReport:
    """Copy app:1 to another registry through the cache; it must succeed."""
    async with ScriptedRegistry() as b:
        report = await copy(f"{a.address}/app:1", f"{b.address}/app", cache=store, options=OPTIONS, **how)
        assert "1" in b.holdings.find("app").tags
        return report


@pytest.mark.parametrize("place", ["incoming/thesis.doc", "blobs/sha256/notes", "blobs/photos/cat.jpg", "a.txt"])
def test_files_that_the_cache_did_not_name_stay(store: BlobCache, place: str) -> None:
    """Files that the cache did not name stay, however full the cache is."""
    mine = store.folder / place
    mine.parent.mkdir(exist_ok=True)
    mine.write_bytes(bytes(5000))
    assert store.make_room()
    assert mine.exists()


@pytest.mark.parametrize("within", ["", "incoming", "lock"])
async def test_another_layout_is_not_used_as_a_cache(image: MadeImage, a: ScriptedRegistry, within: str) -> None:
    """A folder with another image layout is refused, since the cache would evict its blobs."""
    if within:
        (image.path / within).mkdir()
    (image.path / "index.json").write_text('{"schemaVersion": 2, "manifests": []}')
    before = sorted(image.path.rglob("*"))
    store = BlobCache(image.path, limit=1)
    with pytest.raises(InvalidInputError, match="not a cache of ours: give an empty or absent folder"):
        await through(store, a)
    for use in (store.make_room, lambda: store.begin(BLOB), lambda: store.open(BLOB)):
        with pytest.raises(OSError, match="not a cache of ours"):
            use()
    assert sorted(image.path.rglob("*")) == before


async def test_an_existing_cache_is_accepted(store: BlobCache, a: ScriptedRegistry, image: MadeImage) -> None:
    """A folder that a cache created is accepted again."""
    store.check()
    await through(BlobCache(store.folder), a)
    assert {path.name for path in (store.folder / "blobs" / "sha256").iterdir()} >= {
        blob.digest.encoded for blob in image.layers
    }


@pytest.mark.parametrize("linked", ["incoming", "blobs", "blobs/sha256"])
async def test_a_folder_that_is_a_link_is_not_followed(
    store: BlobCache, a: ScriptedRegistry, tmp_path: Path, linked: str
) -> None:
    """A link in place of a cache folder is not followed: its target is neither emptied nor filled."""
    theirs = tmp_path / "theirs"
    (store.folder / linked).rename(theirs)
    for algorithm, name in (("", f"sha256-{'0' * 64}"), ("sha256", "1" * 64), ("", "2" * 64)):
        (theirs / algorithm).mkdir(exist_ok=True)
        (theirs / algorithm / name).write_bytes(bytes(5000))
    (store.folder / linked).symlink_to(theirs)
    before = sorted(theirs.rglob("*"))
    await through(store, a)
    assert sorted(theirs.rglob("*")) == before


async def test_a_pipe_in_place_of_a_blob_is_not_waited_for(
    store: BlobCache, a: ScriptedRegistry, image: MadeImage
) -> None:
    """A pipe in place of a blob is not waited for."""
    for blob in image.blobs:
        os.mkfifo(store.folder / "blobs" / "sha256" / blob.digest.encoded)
    await asyncio.wait_for(through(store, a), PATIENCE)


async def test_a_folder_in_place_of_a_blob_is_ignored(
    store: BlobCache, a: ScriptedRegistry, image: MadeImage
) -> None:
    """A folder in place of a blob disturbs neither reads nor eviction."""
    for blob in (*image.blobs, Descriptor("x", Digest.of(b"other"), 5)):
        (store.folder / "blobs" / "sha256" / blob.digest.encoded).mkdir()
    await through(BlobCache(store.folder, limit=1), a)
    assert BlobCache(store.folder, limit=1).make_room()


async def test_a_lock_that_is_never_released_is_not_waited_for(
    store: BlobCache, a: ScriptedRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that was stopped during eviction does not block others."""
    monkeypatch.setattr(cache_fetch, "STUCK_SECONDS", 0.2)
    with (store.folder / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        await asyncio.wait_for(through(store, a), PATIENCE)


@pytest.mark.parametrize("how", ["future", "touched"])
async def test_a_process_that_makes_no_progress_is_not_waited_for(
    store: BlobCache, a: ScriptedRegistry, image: MadeImage, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """A file time in the future, or one that changes all the time, does not make a wait endless."""
    monkeypatch.setattr(cache_fetch, "STUCK_SECONDS", 0.3)
    others = [store.begin(blob) for blob in image.blobs]
    copying = asyncio.create_task(through(store, a))
    stamp = 4_000_000_000.0

    def touch() -> bool:
        nonlocal stamp
        for other in others:
            assert other is not None
            os.utime(other.fileno, (stamp, stamp))
        stamp += 1 if how == "touched" else 0
        return copying.done()

    await asyncio.wait_for(until(touch), PATIENCE)
    await copying
    for other in others:
        assert other is not None
        other.discard()


@pytest.mark.parametrize("size", [1, 299_999, 300_001, 900_000])
@pytest.mark.parametrize("together", ["together", ""])
async def test_a_wrong_size_in_one_image_does_not_fail_another(
    tmp_path: Path, size: int, *, together: bool
) -> None:
    """Of two images that give a layer different sizes, the correct one is copied, and the layer stays cached."""
    layer = bytes(range(250)) * 1200
    store = BlobCache(tmp_path / "cache")
    async with ScriptedRegistry() as a, ScriptedRegistry() as b:
        put_image(a, "good", "1", [layer])
        lie = {"mediaType": LAYER, "digest": Digest.of(layer), "size": size}
        document = {"schemaVersion": 2, "config": entry(b"{}", CONFIG), "layers": [lie]}
        put_document(a, "bad", "1", document, OCI_MANIFEST)
        a.put_blob("bad", layer)
        a.put_blob("bad", b"{}")
        bad = CopyJob.of(f"{a.address}/bad:1", [f"{b.address}/bad"])
        good = CopyJob.of(f"{a.address}/good:1", [f"{b.address}/good"])
        for jobs in [[bad, good]] if together else [[good], [bad]]:
            with suppress(CopyFailedError):
                await copy_all(jobs, CopySettings(cache=store, options=OPTIONS))
        assert b.holdings.find("bad").tags == {}
        assert "1" in b.holdings.find("good").tags
        held = b.holdings.blob("good", Digest.of(layer))
        assert held is not None
        assert b"".join(held.read(0, held.size)) == layer
    assert (store.folder / "blobs" / "sha256" / Digest.of(layer).encoded).read_bytes() == layer
