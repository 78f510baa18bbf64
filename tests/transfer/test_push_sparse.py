"""Layouts that lack the bytes of some layers: those are mounted, or fetched from where the index knows them."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from crossmount import events
from crossmount.errors import (
    BlobUnavailableError,
    InvalidLayoutError,
    MountRequiredError,
    RegistryUnreachableError,
)
from crossmount.index import MemoryMountIndex, RegistryTraits
from crossmount.oci import Descriptor, Digest, Repository
from crossmount.oci.layout import load_image
from crossmount.oci.reference import is_loopback
from crossmount.testing import BasicAuth, Fault, RegistryOptions, Reply, ScriptedRegistry
from crossmount.transfer.push import push
from crossmount.transfer.registries import Registries
from crossmount.transfer.report import PushReport
from support.copies import OPTIONS, gets
from support.images import MadeImage, make_layers, make_layout


@pytest.fixture
def image(tmp_path: Path) -> MadeImage:
    """An image of three layers, whose first layer is not in its layout any more."""
    return make_layout(tmp_path / "sparse", make_layers(3, size=5000))


@pytest.fixture
def base(image: MadeImage) -> bytes:
    """The bytes of the first layer, which is taken out of the layout."""
    path = image.blob_path(image.layers[0].digest)
    content = path.read_bytes()
    path.unlink()
    return content


def sent(registry: ScriptedRegistry) -> list[str]:
    """Return the requests that change something."""
    return [record.method for record in registry.requests if record.method in {"POST", "PUT", "PATCH"}]


async def knowing(
    layer: Descriptor, *places: tuple[ScriptedRegistry, str], must_mount: bool = False
) -> MemoryMountIndex:
    """Return an index that knows the layer at these places."""
    index = MemoryMountIndex()
    for registry, name in places:
        await index.add_source(layer.digest, Repository.parse(f"{registry.address}/{name}"), must_mount=must_mount)
    return index


async def pushed(
    image: MadeImage,
    registry: ScriptedRegistry,
    index: MemoryMountIndex | None,
    origins: Iterable[str] | None = None,
) -> PushReport:
    """Push the image to team/new."""
    return await push(
        image.path,
        f"{registry.address}/team/new:1",
        index=index,
        options=OPTIONS,
        origins=None if origins is None else list(origins),
    )


def is_there(registry: ScriptedRegistry, image: MadeImage) -> bool:
    """Return whether team/new:1 is the image, with all its blobs."""
    found = registry.holdings.find("team/new")
    return found.tags == {"1": image.root.digest} and {blob.digest for blob in image.blobs} <= found.blobs


@pytest.mark.parametrize("must_mount", [False, True])
async def test_a_layer_that_is_absent_is_mounted(
    scripted_registry: ScriptedRegistry, image: MadeImage, base: bytes, must_mount: bool
) -> None:
    """A layer that the layout lacks is mounted from where the index knows it; nothing is fetched."""
    scripted_registry.put_blob("base/data", base)
    index = await knowing(image.layers[0], (scripted_registry, "base/data"), must_mount=must_mount)
    report = await pushed(image, scripted_registry, index)
    assert is_there(scripted_registry, image)
    assert report.count("mounted") == 1
    assert not scripted_registry.matching(method="GET", path=f"*/blobs/{image.layers[0].digest}")


async def test_a_layer_that_exists_in_dest_is_not_needed(
    scripted_registry: ScriptedRegistry, image: MadeImage, base: bytes
) -> None:
    """If dest has a layer that the layout lacks, and the index does not know it, the push succeeds."""
    scripted_registry.put_blob("team/new", base)
    report = await pushed(image, scripted_registry, MemoryMountIndex())
    assert is_there(scripted_registry, image)
    assert report.count("existing") == 1


async def test_a_layer_of_another_registry_is_fetched_from_there(
    a: ScriptedRegistry, b: ScriptedRegistry, image: MadeImage, base: bytes
) -> None:
    """A layer that only another registry has is fetched, uploaded and recorded, and the report says from where."""
    b.put_blob("far/data", base)
    index = await knowing(image.layers[0], (b, "far/data"))
    report = await pushed(image, a, index)
    assert is_there(a, image)
    assert gets(b) == 1
    (blob,) = [blob for blob in report.blobs if blob.fetched_from]
    assert (blob.digest, blob.fetched_from, blob.fetched) == (
        image.layers[0].digest,
        f"{b.address}/far/data",
        len(base),
    )
    assert blob.to_json()["fetched_from"] == f"{b.address}/far/data"


async def test_a_mount_that_is_refused_falls_back_to_fetching(image: MadeImage, base: bytes) -> None:
    """On a registry that mounts nothing, an absent layer is fetched from the repository that has it."""
    async with ScriptedRegistry(RegistryOptions(mounts=False)) as registry:
        registry.put_blob("base/data", base)
        index = await knowing(image.layers[0], (registry, "base/data"))
        report = await pushed(image, registry, index)
        assert is_there(registry, image)
        assert report.count("uploaded") == len(image.blobs)
        assert gets(registry) == 1


async def test_a_hint_that_was_wrong_is_told(
    scripted_registry: ScriptedRegistry, image: MadeImage, base: bytes
) -> None:
    """If the index was wrong about a layer's source, the error says so, and what to do; nothing is tagged."""
    del base
    index = await knowing(image.layers[0], (scripted_registry, "base/gone"))
    with pytest.raises(
        BlobUnavailableError, match=f"{image.layers[0].digest} could not be fetched.*crossmount add"
    ):
        await pushed(image, scripted_registry, index)
    assert not scripted_registry.holdings.find("team/new").tags


async def test_a_must_mount_layer_is_not_fetched(
    a: ScriptedRegistry, b: ScriptedRegistry, image: MadeImage, base: bytes
) -> None:
    """A must-mount layer that only another registry has is refused before anything is sent."""
    b.put_blob("far/data", base)
    index = await knowing(image.layers[0], (b, "far/data"), must_mount=True)
    with pytest.raises(MountRequiredError, match=image.layers[0].digest):
        await pushed(image, a, index)
    assert not sent(a)
    assert not gets(b)


async def test_a_layer_that_nobody_knows_is_named_before_anything_is_sent(
    scripted_registry: ScriptedRegistry, image: MadeImage, base: bytes
) -> None:
    """The error names the layer, its size, the layout, that the index does not know it, and what to do."""
    image.blob_path(image.layers[1].digest).unlink()
    with pytest.raises(InvalidLayoutError) as raised:
        await pushed(image, scripted_registry, MemoryMountIndex())
    for words in (
        "a layer is not at hand: ",
        str(image.path),
        image.layers[0].digest,
        f"{len(base)} bytes (and 1 more)",
        "the index does not know it either",
        "crossmount scan",
        "crossmount add",
    ):
        assert words in str(raised.value)
    assert not sent(scripted_registry)


async def test_without_an_index_only_the_destination_is_asked(
    scripted_registry: ScriptedRegistry, image: MadeImage, base: bytes
) -> None:
    """Without an index the destination's registry alone may have a layer that the layout lacks."""
    del base
    with pytest.raises(InvalidLayoutError, match=r"no index is used, .*: push with an index, or make") as raised:
        await pushed(image, scripted_registry, None)
    assert "crossmount add" not in str(raised.value)
    assert not sent(scripted_registry)


async def test_a_layer_that_the_registry_finds_by_itself_needs_no_source(image: MadeImage, base: bytes) -> None:
    """On a registry that is known to find layers, a layer that the layout lacks is mounted from where it is."""
    async with ScriptedRegistry(RegistryOptions(finds=True)) as registry:
        registry.put_blob("far/away", base)
        index = MemoryMountIndex()
        await index.record_traits(registry.address, RegistryTraits(finds=True))
        await pushed(image, registry, index)
        assert is_there(registry, image)


@pytest.mark.parametrize("why", ["gone", "denied", "not allowed"])
async def test_an_origin_that_sends_nothing_is_found_before_anything_is_sent(
    a: ScriptedRegistry, image: MadeImage, base: bytes, why: str
) -> None:
    """If no other registry sends a layer, or none is allowed to, the push ends before it uploads the rest."""
    options = RegistryOptions(auth=BasicAuth(users={"alice": "secret"})) if why == "denied" else RegistryOptions()
    async with ScriptedRegistry(options) as far:
        if why != "gone":
            far.put_blob("far/data", base)
        index = await knowing(image.layers[0], (far, "far/data"))
        with pytest.raises(InvalidLayoutError, match=f"{image.layers[0].digest}.*index"):
            await pushed(image, a, index, origins=["elsewhere.example"] if why == "not allowed" else None)
        assert not sent(a)
        assert not gets(far)
        assert bool(far.requests) == (why != "not allowed")


async def test_only_loopback_is_asked_over_http_unnamed(b: ScriptedRegistry) -> None:
    """A registry that only the index names is asked over http on loopback alone, and only if http is allowed."""
    place = Repository.parse(f"{b.address}/far/data")
    async with Registries(OPTIONS) as registries:
        assert (await registries.client(place, loopback_http=True).ping()).status == 200
        with pytest.raises(RegistryUnreachableError):
            await registries.client(place).ping()
    async with Registries(replace(OPTIONS, plain_http=False)) as registries:
        with pytest.raises(RegistryUnreachableError):
            await registries.client(place, loopback_http=True).ping()
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.1.2.3", "[::1]")))
    assert not any(map(is_loopback, ("r.example", "10.0.0.1", "localhost.example", "[::2]", "0.0.0.0")))  # noqa: S104


async def test_wrong_bytes_of_an_origin_never_complete(
    a: ScriptedRegistry, b: ScriptedRegistry, image: MadeImage, base: bytes
) -> None:
    """Bytes of another registry that are not the layer complete no upload, and nothing is tagged."""
    b.put_blob("far/data", base)
    wrong = Reply(status=200, body=bytes(len(base)), media_type="application/octet-stream")
    b.play(Fault(method="GET", path="*/blobs/*", action=wrong, times=None))
    index = await knowing(image.layers[0], (b, "far/data"))
    with pytest.raises(BlobUnavailableError, match="do not have the digest"):
        await pushed(image, a, index)
    assert image.layers[0].digest not in a.holdings.find("team/new").blobs
    assert not a.holdings.find("team/new").tags


async def test_an_image_read_before_may_lack_layers_too(
    scripted_registry: ScriptedRegistry, image: MadeImage, base: bytes
) -> None:
    """An image that was read with `allow_absent` is pushed as its layout is; without, its reading fails."""
    with pytest.raises(InvalidLayoutError, match="is missing"):
        load_image(image.path)
    scripted_registry.put_blob("base/data", base)
    index = await knowing(image.layers[0], (scripted_registry, "base/data"))
    seen: list[events.Event] = []
    await push(
        load_image(image.path, allow_absent=True),
        f"{scripted_registry.address}/team/new:1",
        index=index,
        options=OPTIONS,
        observer=seen.append,
    )
    assert is_there(scripted_registry, image)
    assert Digest(image.layers[0].digest) in {
        event.digest for event in seen if isinstance(event, events.BlobFinished) and event.outcome == "mounted"
    }
