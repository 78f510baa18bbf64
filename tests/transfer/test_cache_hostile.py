"""A cache folder that others may write to: they can spoil it, and harm nothing else."""

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
from crossmount.transfer import BlobCache, CopyReport, cache_fetch, copy, push
from crossmount.transfer.copy import CopySettings, copy_all
from crossmount.transfer.copy_jobs import CopyJob
from support.copies import OPTIONS
from support.holdings import CONFIG, LAYER, entry, put_document, put_image
from support.images import MadeImage, make_layers, make_layout
from support.waiting import until

DATA = b"data"
BLOB = Descriptor("application/octet-stream", Digest.of(DATA), len(DATA))


@pytest.fixture
def store(tmp_path: Path) -> BlobCache:
    """An empty cache of few bytes, which is there already."""
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
    """A registry that holds the image as app:1."""
    async with ScriptedRegistry() as registry:
        await push(image.path, f"{registry.address}/app:1", options=OPTIONS)
        yield registry


async def through(store: BlobCache, a: ScriptedRegistry, **how: Any) -> CopyReport:
    """Copy app:1 within the same process to another registry, through the cache; it must arrive."""
    async with ScriptedRegistry() as b:
        report = await copy(f"{a.address}/app:1", f"{b.address}/app", cache=store, options=OPTIONS, **how)
        assert "1" in b.holdings.find("app").tags
        return report


@pytest.mark.parametrize("place", ["incoming/thesis.doc", "blobs/sha256/notes", "blobs/photos/cat.jpg", "a.txt"])
def test_what_the_cache_did_not_name_is_left_alone(store: BlobCache, place: str) -> None:
    """A folder that was somebody's before keeps its other files, however full it is."""
    mine = store.folder / place
    mine.parent.mkdir(exist_ok=True)
    mine.write_bytes(bytes(5000))
    assert store.make_room()
    assert mine.exists()


@pytest.mark.parametrize("within", ["", "incoming", "lock"])
async def test_a_layout_of_somebody_is_not_made_a_cache(
    image: MadeImage, a: ScriptedRegistry, within: str
) -> None:
    """Its blobs are somebody's images, and would leave it: it is refused, whatever else lies there."""
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


async def test_a_cache_is_known_again(store: BlobCache, a: ScriptedRegistry, image: MadeImage) -> None:
    """What a cache made itself is no reason to refuse it."""
    store.check()
    await through(BlobCache(store.folder), a)
    assert {path.name for path in (store.folder / "blobs" / "sha256").iterdir()} >= {
        blob.digest.encoded for blob in image.layers
    }


@pytest.mark.parametrize("linked", ["incoming", "blobs", "blobs/sha256"])
async def test_a_folder_that_is_a_link_is_not_followed(
    store: BlobCache, a: ScriptedRegistry, tmp_path: Path, linked: str
) -> None:
    """Nobody can have another folder emptied, or filled, in the cache's place."""
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
    """Opening it would wait for the other end for ever."""
    for blob in image.blobs:
        os.mkfifo(store.folder / "blobs" / "sha256" / blob.digest.encoded)
    await asyncio.wait_for(through(store, a), 20)


async def test_a_folder_in_place_of_a_blob_is_gone_past(
    store: BlobCache, a: ScriptedRegistry, image: MadeImage
) -> None:
    """Neither reading nor making room stumbles over it."""
    for blob in (*image.blobs, Descriptor("x", Digest.of(b"other"), 5)):
        (store.folder / "blobs" / "sha256" / blob.digest.encoded).mkdir()
    await through(BlobCache(store.folder, limit=1), a)
    assert BlobCache(store.folder, limit=1).make_room()


async def test_a_lock_that_is_never_given_back_is_not_waited_for(
    store: BlobCache, a: ScriptedRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One who was stopped while it made room holds up nobody."""
    monkeypatch.setattr(cache_fetch, "STUCK_SECONDS", 0.2)
    with (store.folder / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        await asyncio.wait_for(through(store, a), 20)


@pytest.mark.parametrize("how", ["future", "touched"])
async def test_another_that_never_gets_on_is_not_waited_for(
    store: BlobCache, a: ScriptedRegistry, image: MadeImage, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Neither a date of the future nor a new one each moment makes a wait endless."""
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

    await asyncio.wait_for(until(touch), 20)
    await copying
    for other in others:
        assert other is not None
        other.discard()


@pytest.mark.parametrize("size", [1, 299_999, 300_001, 900_000])
@pytest.mark.parametrize("together", ["together", ""])
async def test_an_image_that_lies_about_a_size_spoils_no_other(
    tmp_path: Path, size: int, *, together: bool
) -> None:
    """The layer that both name comes for the one that is right, and stays in the cache."""
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
