"""Copies through the blob cache, and the cache's own promises."""

import asyncio
import errno
import fcntl
import json
import os
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from crossmount import events
from crossmount.errors import BlobUnavailableError, CopyFailedError, CrossmountError, RegistryUnreachableError
from crossmount.oci import Descriptor, Digest, Repository
from crossmount.registry import ClientOptions, RetryPolicy
from crossmount.testing import Alter, Fault, ScriptedRegistry
from crossmount.transfer import BlobCache, CopyReport, copy, filling, push
from crossmount.transfer.fetch import FetchedBlob, Origin
from crossmount.transfer.filling import CacheOrigin, Fillings
from support.images import MadeImage, make_layers, make_layout
from support.waiting import until

QUICK = RetryPolicy(attempts=2, outage=0.0, first_wait=0.01, longest_wait=0.02)
OPTIONS = ClientOptions(plain_http=True, retry=QUICK)


@pytest.fixture
def image(tmp_path: Path) -> MadeImage:
    """An image of three layers, of more than a piece each."""
    return make_layout(tmp_path / "image", make_layers(3, size=1_500_000))


@pytest.fixture
async def a(image: MadeImage) -> AsyncIterator[ScriptedRegistry]:
    """A registry that holds the image as team/app:1."""
    async with ScriptedRegistry() as registry:
        await push(image.path, f"{registry.address}/team/app:1", options=OPTIONS)
        registry.requests.clear()
        yield registry


@pytest.fixture
async def b() -> AsyncIterator[ScriptedRegistry]:
    """An empty registry."""
    async with ScriptedRegistry() as registry:
        yield registry


@pytest.fixture
async def c() -> AsyncIterator[ScriptedRegistry]:
    """Another empty registry."""
    async with ScriptedRegistry() as registry:
        yield registry


async def through(folder: Path, source: ScriptedRegistry, *dests: ScriptedRegistry, **how: Any) -> CopyReport:
    """Copy team/app:1 to app on each of `dests` through a cache."""
    targets = [f"{dest.address}/app" for dest in dests]
    given = {"cache": BlobCache(folder), "options": OPTIONS, **how}
    return await copy(f"{source.address}/team/app:1", *targets, **given)


def is_whole(registry: ScriptedRegistry, image: MadeImage) -> bool:
    """Tell whether the registry holds the image as app:1, byte for byte."""
    for blob in image.blobs:
        content = registry.holdings.blob("app", blob.digest)
        if content is None or b"".join(content.read(0, content.size)) != image.blob_path(blob.digest).read_bytes():
            return False
    return registry.holdings.find("app").tags == {"1": image.root.digest}


def cached(folder: Path) -> dict[str, bytes]:
    """Return the blobs of a cache by their hex digest."""
    return {path.name: path.read_bytes() for path in (folder / "blobs" / "sha256").iterdir()}


def gets(registry: ScriptedRegistry, digest: str = "*") -> int:
    """Return how often a blob was asked for."""
    return len(registry.matching(method="GET", path=f"*/blobs/{digest}"))


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


async def test_a_layer_is_fetched_once_for_many_destinations(
    a: ScriptedRegistry, b: ScriptedRegistry, c: ScriptedRegistry, image: MadeImage, tmp_path: Path
) -> None:
    """Two registries get each layer, the source gives it once, and the cache is a layout with the same bytes."""
    folder = tmp_path / "cache"
    report = await through(folder, a, b, c)
    assert is_whole(b, image)
    assert is_whole(c, image)
    assert [gets(a, blob.digest) for blob in image.blobs] == [1] * len(image.blobs)
    assert report.fetched == sum(blob.size for blob in image.blobs)
    assert all(Digest.of(data).encoded == name for name, data in cached(folder).items())
    assert json.loads((folder / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    assert json.loads((folder / "index.json").read_text())["manifests"] == []
    assert list((folder / "incoming").iterdir()) == []


async def test_what_is_cached_is_not_fetched_again(
    a: ScriptedRegistry, b: ScriptedRegistry, c: ScriptedRegistry, image: MadeImage, tmp_path: Path
) -> None:
    """A later copy takes the bytes from the cache, and the report says so."""
    await through(tmp_path / "cache", a, b)
    a.requests.clear()
    report = await through(tmp_path / "cache", a, c)
    assert gets(a) == 0
    assert is_whole(c, image)
    assert {blob.fetched_from for blob in report.copied[0].blobs} == {"cache"}
    assert report.fetched == 0


@pytest.mark.parametrize("damage", ["flipped", "cut", "longer"])
async def test_a_damaged_file_is_noticed_and_fetched_again(
    a: ScriptedRegistry, b: ScriptedRegistry, c: ScriptedRegistry, image: MadeImage, tmp_path: Path, damage: str
) -> None:
    """Wrong bytes in the cache never complete an upload: they are removed, fetched anew, and right afterwards."""
    folder = tmp_path / "cache"
    await through(folder, a, b)
    layer = image.layers[1].digest
    path = folder / "blobs" / "sha256" / layer.encoded
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes({"flipped": data, "cut": data[:-1], "longer": data + b"x"}[damage])
    a.requests.clear()
    await through(folder, a, c)
    assert is_whole(c, image)
    assert [gets(a, blob.digest) for blob in image.layers] == [0, 1, 0]
    assert Digest.of(path.read_bytes()) == layer
    assert c.open_sessions == ()


async def test_wrong_bytes_never_come_into_the_cache(
    a: ScriptedRegistry, b: ScriptedRegistry, image: MadeImage, tmp_path: Path
) -> None:
    """A source that lies fails the copy, and leaves nothing in the cache."""
    layer = image.layers[0].digest
    a.play(Fault(method="GET", path=f"*/blobs/{layer}", action=Alter(corrupt=True), times=None))
    with pytest.raises(CopyFailedError, match=f"{a.address}/team/app gave bytes .* {layer}"):
        await through(tmp_path / "cache", a, b)
    assert layer.encoded not in cached(tmp_path / "cache")
    assert list((tmp_path / "cache" / "incoming").iterdir()) == []
    assert b.holdings.blob("app", layer) is None
    assert gets(a, layer) == 1


@pytest.mark.parametrize("call", ["ftruncate", "pwrite", "fsync"])
async def test_a_full_disk_lets_bytes_go_past_the_cache(
    a: ScriptedRegistry,
    b: ScriptedRegistry,
    image: MadeImage,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
) -> None:
    """The copy goes on, says once why, and leaves no half blob."""
    seen: list[events.Event] = []

    def full(*arguments: object) -> int:
        del arguments
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(f"crossmount.transfer.cache.os.{call}", full)
    await through(tmp_path / "cache", a, b, observer=seen.append)
    assert is_whole(b, image)
    (said,) = [event for event in seen if isinstance(event, events.CacheDegraded)]
    assert said.cause == f"{tmp_path / 'cache'}: No space left on device"
    assert cached(tmp_path / "cache") == {}
    assert list((tmp_path / "cache" / "incoming").iterdir()) == []


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


async def test_a_cache_that_cannot_be_made_is_gone_past(
    a: ScriptedRegistry, b: ScriptedRegistry, image: MadeImage, tmp_path: Path
) -> None:
    """A file where the folder should be fails no copy."""
    (tmp_path / "cache").write_text("a file")
    seen: list[events.Event] = []
    await through(tmp_path / "cache", a, b, observer=seen.append)
    assert is_whole(b, image)
    assert sum(isinstance(event, events.CacheDegraded) for event in seen) == 1


async def test_a_blob_larger_than_the_cache_goes_past_it(
    a: ScriptedRegistry, b: ScriptedRegistry, image: MadeImage, tmp_path: Path
) -> None:
    """What can't fit is streamed, silently: the limit was somebody's wish."""
    seen: list[events.Event] = []
    store = BlobCache(tmp_path / "cache", limit=100_000)
    await through(tmp_path / "cache", a, b, cache=store, observer=seen.append)
    assert is_whole(b, image)
    assert set(cached(tmp_path / "cache")) == {image.configs[0].digest.encoded}
    assert not any(isinstance(event, events.CacheDegraded) for event in seen)


async def test_the_limit_holds_after_a_copy(
    a: ScriptedRegistry, b: ScriptedRegistry, image: MadeImage, tmp_path: Path
) -> None:
    """More than fits leaves the cache within its limit."""
    store = BlobCache(tmp_path / "cache", limit=2_000_000)
    await through(tmp_path / "cache", a, b, cache=store)
    assert is_whole(b, image)
    assert sum(map(len, cached(tmp_path / "cache").values())) <= 2_000_000


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


async def test_one_waits_for_another_process(
    a: ScriptedRegistry, b: ScriptedRegistry, image: MadeImage, tmp_path: Path
) -> None:
    """While somebody else fetches a blob nobody asks the source for it; then it is read from the cache."""
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
    assert is_whole(b, image)


async def test_another_process_that_does_not_get_on_is_not_waited_for(
    a: ScriptedRegistry, b: ScriptedRegistry, image: MadeImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is stopped in the middle holds its lock for ever: the bytes go past the cache."""
    monkeypatch.setattr(filling, "STUCK_SECONDS", 0.2)
    stopped = BlobCache(tmp_path / "cache").begin(image.layers[0])
    assert stopped is not None
    await through(tmp_path / "cache", a, b)
    assert is_whole(b, image)
    fcntl.flock(stopped.fileno, fcntl.LOCK_UN)
    stopped.discard()


async def test_a_cancelled_copy_leaves_nothing_incoming(
    a: ScriptedRegistry, b: ScriptedRegistry, tmp_path: Path
) -> None:
    """Ctrl-C in the middle of a download removes what was fetched so far."""
    a.play(Fault(method="GET", path="*/blobs/*", delay=30.0, times=None))
    task = asyncio.create_task(through(tmp_path / "cache", a, b))
    incoming = tmp_path / "cache" / "incoming"
    await until(lambda: incoming.exists() and any(incoming.iterdir()))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert list((tmp_path / "cache" / "incoming").iterdir()) == []
    assert b.open_sessions == ()


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

        async def find(descriptor: Descriptor) -> list[Origin]:
            del descriptor
            return [self]

        return FetchedBlob(descriptor, [find])


async def test_an_image_whose_sources_fail_takes_no_other_image_with_it(tmp_path: Path) -> None:
    """Of two that share a layer one fetches it for both; if it can't, the other asks its own sources."""
    data = bytes(range(256)) * 8
    layer, fillings = blob_of(data), Fillings(BlobCache(tmp_path))
    dead, sound = Gated(None), Gated(data)
    sound.gate.set()

    async def read(origin: Gated) -> bytes:
        cached_one = CacheOrigin(fillings, origin.blob(layer))
        return b"".join([part async for part in cached_one.read(layer, 0)])

    first = asyncio.create_task(read(dead))
    await dead.asked.wait()
    second = asyncio.create_task(read(sound))
    await until(lambda: fillings.filling(dead.blob(layer)).readers == 2)
    assert not sound.asked.is_set()
    dead.gate.set()
    with pytest.raises(BlobUnavailableError, match="gone"):
        await first
    assert await second == data
    assert has(fillings.cache, layer)
    await fillings.aclose()
