"""The blob cache alone: the order of eviction, locks, and no incomplete or foreign files."""

import asyncio
import errno
import os
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from crossmount.errors import BlobUnavailableError, CrossmountError, RegistryUnreachableError
from crossmount.oci import Descriptor, Digest, Repository
from crossmount.transfer.cache import BlobCache
from crossmount.transfer.cache_fetch import CacheFetcher, CacheOrigin
from crossmount.transfer.fetch import BlobOrigin, FetchedBlob
from support.waiting import until


def blob_of(data: bytes) -> Descriptor:
    """Return a blob's descriptor."""
    return Descriptor("application/octet-stream", Digest.of(data), len(data))


def put(store: BlobCache, data: bytes, *, used: float | None = None) -> Descriptor:
    """Store a blob in a cache, last used at `used` (epoch seconds)."""
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
    """Return whether a cache has a blob, which counts as a use."""
    fileno = store.open(descriptor)
    if fileno is None:
        return False
    os.close(fileno)
    return True


def test_a_full_disk_leaves_no_incomplete_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a full disk no incomplete file of the layout remains; only the empty marker does."""

    def full(path: Path, text: str) -> int:
        del text
        path.touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", full)
    for _ in range(3):
        with pytest.raises(OSError, match="No space"):
            BlobCache(tmp_path).begin(blob_of(b"data"))
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["crossmount-cache"]


def test_the_least_recently_used_blob_is_evicted_first(tmp_path: Path) -> None:
    """The least recently used blob is evicted first."""
    store = BlobCache(tmp_path, limit=3000)
    old, older, young = (put(store, bytes([n]) * 1000, used=at) for n, at in ((1, 200.0), (2, 100.0), (3, 300.0)))
    assert has(store, older)
    incoming = store.begin(blob_of(bytes(1000)))
    assert incoming is not None
    assert store.make_room()
    assert [has(store, blob) for blob in (old, older, young)] == [False, True, True]
    incoming.discard()


def test_incoming_blobs_are_not_evicted(tmp_path: Path) -> None:
    """Incoming blobs are not evicted; if they alone exceed the limit, nothing is evicted."""
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


def test_one_process_fetches_a_blob_at_a_time(tmp_path: Path) -> None:
    """A second process cannot fetch a blob before the first has ended."""
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


def test_files_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    """Eviction removes an unlocked file in `incoming`, and no locked one."""
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
    """A link in place of a blob is neither read nor written through."""
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
    """An origin that yields its bytes, or fails, when its gate is opened."""

    data: bytes | None
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    repository: Repository = field(default_factory=lambda: Repository("r.example", "app"))

    async def read(self, descriptor: Descriptor, offset: int) -> AsyncGenerator[bytes]:
        """Wait, then yield all remaining bytes."""
        self.asked.set()
        await self.gate.wait()
        if self.data is None:
            raise RegistryUnreachableError("gone")
        yield self.data[offset : descriptor.size]

    async def failed(self, descriptor: Descriptor, error: CrossmountError) -> None:
        """Do nothing."""

    async def sent_wrong_bytes(self, descriptor: Descriptor) -> bool:
        """Return False: another read gives the same bytes."""
        del descriptor
        return False

    def blob(self, descriptor: Descriptor) -> FetchedBlob:
        """Return a blob with this origin only."""

        async def find(descriptor: Descriptor) -> list[BlobOrigin]:
            del descriptor
            return [self]

        return FetchedBlob(descriptor, [find])


async def test_an_image_whose_sources_fail_does_not_fail_another(tmp_path: Path) -> None:
    """One of two images fetches their common layer for both; if it fails, the other uses its own sources."""
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
