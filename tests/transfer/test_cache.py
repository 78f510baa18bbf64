"""What a blob cache promises by itself: who leaves first, who fetches, and nothing half or foreign in it."""

import asyncio
import errno
import os
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from crossmount.errors import BlobUnavailableError, CrossmountError, RegistryUnreachableError
from crossmount.oci import Descriptor, Digest, Repository
from crossmount.transfer import BlobCache
from crossmount.transfer.cache_fetch import CacheFetcher, CacheOrigin
from crossmount.transfer.fetch import BlobOrigin, FetchedBlob
from support.waiting import until


def blob_of(data: bytes) -> Descriptor:
    """Return a blob's descriptor."""
    return Descriptor("application/octet-stream", Digest.of(data), len(data))


def put(store: BlobCache, data: bytes, *, used: float | None = None) -> Descriptor:
    """Put a blob into a cache, last used at `used` (epoch seconds)."""
    descriptor = blob_of(data)
    incoming = store.begin(descriptor)
    assert incoming is not None
    incoming.write(data, 0)
    incoming.keep()
    if used is not None:
        os.utime(incoming.fileno, (used, used))
    os.close(incoming.fileno)
    return descriptor


def has(store: BlobCache, descriptor: Descriptor) -> bool:
    """Tell whether a cache holds a blob; that counts as a use."""
    fileno = store.open(descriptor)
    if fileno is None:
        return False
    os.close(fileno)
    return True


def test_a_disk_that_was_full_from_the_beginning_is_not_littered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What could not be written of the layout's own files is gone; the mark, which is empty, says whose it is."""

    def full(path: Path, text: str) -> int:
        del text
        path.touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", full)
    for _ in range(3):
        with pytest.raises(OSError, match="No space"):
            BlobCache(tmp_path).begin(blob_of(b"data"))
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["crossmount-cache"]


def test_what_was_not_used_for_longest_leaves_first(tmp_path: Path) -> None:
    """A use makes a blob young again."""
    store = BlobCache(tmp_path, limit=3000)
    old, older, young = (put(store, bytes([n]) * 1000, used=at) for n, at in ((1, 200.0), (2, 100.0), (3, 300.0)))
    assert has(store, older)
    incoming = store.begin(blob_of(bytes(1000)))
    assert incoming is not None
    assert store.make_room()
    assert [has(store, blob) for blob in (old, older, young)] == [False, True, True]
    incoming.discard()


def test_room_is_made_only_as_far_as_it_can_be(tmp_path: Path) -> None:
    """What others are fetching stays; if that is too much, there is no room, and nothing leaves for it."""
    store = BlobCache(tmp_path, limit=1500)
    kept = put(store, b"kept")
    first, second = store.begin(blob_of(bytes(1000))), store.begin(blob_of(b"\1" * 1000))
    assert first is not None
    assert second is not None
    assert not store.make_room()
    assert has(store, kept)
    first.discard()
    assert store.make_room()
    second.discard()


def test_one_fetches_at_a_time(tmp_path: Path) -> None:
    """A second one is told to wait; after the first has ended, however, it may."""
    store, blob = BlobCache(tmp_path), blob_of(b"data")
    first = store.begin(blob)
    assert first is not None
    assert store.begin(blob) is None
    first.discard()
    second = store.begin(blob)
    assert second is not None
    second.write(b"data", 0)
    second.keep()
    os.close(second.fileno)
    assert has(store, blob)


def test_what_a_killed_process_left_is_swept(tmp_path: Path) -> None:
    """A file in `incoming` that nobody has locked is removed when room is made; a locked one stays."""
    store = BlobCache(tmp_path)
    live = store.begin(blob_of(b"live"))
    assert live is not None
    stale = tmp_path / "incoming" / f"sha256-{'0' * 64}"
    stale.write_bytes(b"half")
    assert store.make_room()
    assert not stale.exists()
    assert live.path.exists()
    live.discard()


def test_a_link_in_place_of_a_blob_is_not_followed(tmp_path: Path) -> None:
    """Whoever may write to the folder can't make us read or write elsewhere."""
    store, blob = BlobCache(tmp_path / "cache"), blob_of(b"data")
    put(store, b"data")
    path = tmp_path / "cache" / "blobs" / "sha256" / blob.digest.encoded
    path.unlink()
    (tmp_path / "elsewhere").write_bytes(b"data")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        store.open(blob)


@dataclass(eq=False)
class Gated:
    """An origin that gives its bytes, or fails, when its gate is opened."""

    data: bytes | None
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    repository: Repository = field(default_factory=lambda: Repository("r.example", "app"))

    async def read(self, descriptor: Descriptor, offset: int) -> AsyncGenerator[bytes]:
        """Wait, then give all that is left."""
        self.asked.set()
        await self.gate.wait()
        if self.data is None:
            raise RegistryUnreachableError("gone")
        yield self.data[offset : descriptor.size]

    async def failed(self, descriptor: Descriptor, error: CrossmountError) -> None:
        """Take no note."""

    async def gave_wrong(self, descriptor: Descriptor) -> bool:
        """Be no better next time."""
        del descriptor
        return False

    def blob(self, descriptor: Descriptor) -> FetchedBlob:
        """Return a blob that may be had from here alone."""

        async def find(descriptor: Descriptor) -> list[BlobOrigin]:
            del descriptor
            return [self]

        return FetchedBlob(descriptor, [find])


async def test_an_image_whose_sources_fail_takes_no_other_image_with_it(tmp_path: Path) -> None:
    """Of two that share a layer one fetches it for both; if it can't, the other asks its own sources."""
    data = bytes(range(256)) * 8
    layer, cached = blob_of(data), CacheFetcher(BlobCache(tmp_path))
    dead, sound = Gated(None), Gated(data)
    sound.gate.set()

    async def read(origin: Gated) -> bytes:
        cached_one = CacheOrigin(cached, origin.blob(layer))
        return b"".join([part async for part in cached_one.read(layer, 0)])

    first = asyncio.create_task(read(dead))
    await dead.asked.wait()
    second = asyncio.create_task(read(sound))
    await until(lambda: cached.fetch(dead.blob(layer)).readers == 2)
    assert not sound.asked.is_set()
    dead.gate.set()
    with pytest.raises(BlobUnavailableError, match="gone"):
        await first
    assert await second == data
    assert has(cached.cache, layer)
    await cached.aclose()
