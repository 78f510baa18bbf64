"""Pushes whose HEADs or mounts got untrue answers."""

import pickle
from pathlib import Path

import pytest

from crossmount.errors import BlobUnknownError
from crossmount.index import MemoryMountIndex, RegistryTraits
from crossmount.oci import Digest, Repository
from crossmount.registry import ClientOptions
from crossmount.testing import Alter, Fault, RegistryOptions, ScriptedRegistry
from crossmount.transfer.missing import doubtful
from crossmount.transfer.push import push
from crossmount.transfer.report import PushReport
from support.images import MadeImage, make_layers, make_layout

OPTIONS = ClientOptions(plain_http=True)
ALL_EXIST = Fault(method="HEAD", path="*/blobs/*", action=Alter(status=200, drop=("Content-Length",)), times=None)
A, B, C = (Digest.of(data) for data in (b"a", b"b", b"c"))


@pytest.fixture
def image(tmp_path: Path) -> MadeImage:
    """An image of three layers."""
    return make_layout(tmp_path / "image", make_layers(3, size=5000))


async def pushed(image: MadeImage, registry: ScriptedRegistry, index: MemoryMountIndex) -> PushReport:
    """Push the image to team/new, and check that it is there with all its blobs."""
    report = await push(image.path, f"{registry.address}/team/new:1", index=index, options=OPTIONS)
    found = registry.holdings.find("team/new")
    assert found.tags == {"1": image.root.digest}
    assert {blob.digest for blob in image.blobs} <= found.blobs
    return report


async def known(image: MadeImage, registry: ScriptedRegistry) -> MemoryMountIndex:
    """Put the layers into team/base, and return an index that knows them there."""
    index = MemoryMountIndex()
    for layer in image.layers:
        registry.put_blob("team/base", image.blob_path(layer.digest).read_bytes())
        await index.add_source(layer.digest, Repository.parse(f"{registry.address}/team/base"))
    return index


async def test_a_head_that_reports_everything_is_not_believed_twice(image: MadeImage) -> None:
    """After a refused manifest the blobs are uploaded although HEAD still reports them."""
    async with ScriptedRegistry(faults=[ALL_EXIST]) as registry:
        report = await pushed(image, registry, MemoryMountIndex())
        assert report.count("uploaded") == len(image.blobs)
        assert len(registry.matching(method="PUT", path="*/manifests/*")) == 2


async def test_a_blob_that_dest_lost_is_mounted_from_another_source(image: MadeImage) -> None:
    """A layer that the index and HEAD took for existing is mounted from where the index knows it too."""
    async with ScriptedRegistry(faults=[ALL_EXIST]) as registry:
        index = await known(image, registry)
        for layer in image.layers:
            await index.add_source(layer.digest, Repository.parse(f"{registry.address}/team/new"))
        report = await pushed(image, registry, index)
        assert report.count("mounted") == len(image.layers)
        assert report.count("uploaded") == 1


async def test_only_the_blobs_that_the_registry_names_are_pushed_once_more(image: MadeImage) -> None:
    """A blob that dest really holds is not uploaded because of a HEAD that is wrong about others."""
    async with ScriptedRegistry(faults=[ALL_EXIST]) as registry:
        held = image.layers[0]
        registry.put_blob("team/new", image.blob_path(held.digest).read_bytes())
        report = await pushed(image, registry, MemoryMountIndex())
        assert report.count("existing") == 1
        assert registry.uploads(held.digest) == 0


@pytest.mark.parametrize("lies", ["*", "one"])
async def test_a_first_mount_that_did_not_happen_is_seen_before_the_manifest(image: MadeImage, lies: str) -> None:
    """On a registry that accepts manifests without their blobs nothing is tagged that is not whole."""
    false = "*" if lies == "*" else image.layers[1].digest
    async with ScriptedRegistry(RegistryOptions(false_mounts=(false,), checks_references=False)) as registry:
        index = await known(image, registry)
        if lies == "one":  # then only the trait shows it
            await index.record_traits(registry.address, RegistryTraits(truthful=False))
        report = await pushed(image, registry, index)
        dest = Repository.parse(f"{registry.address}/team/other")
        assert (await index.look_up([], dest)).traits.truthful is False
        assert report.count("mounted") == (0 if lies == "*" else 2)


async def test_a_true_first_mount_is_remembered(image: MadeImage) -> None:
    """One HEAD proves the first mount; the index then says that the registry's word is true."""
    async with ScriptedRegistry() as registry:
        index = await known(image, registry)
        await pushed(image, registry, index)
        dest = Repository.parse(f"{registry.address}/team/other")
        assert (await index.look_up([], dest)).traits.truthful is True


def test_what_head_says_is_doubted_before_what_a_mount_says() -> None:
    """Blobs that HEAD reported come first, then mounted ones, then uploaded ones that the registry names."""
    assert doubtful([A, B, C], {A: "uploaded", B: "existing", C: "mounted"}) == [B]
    assert doubtful([A, C], {A: "uploaded", C: "mounted"}) == [C]
    assert doubtful([A], {A: "uploaded"}) == []
    assert doubtful([A, B], {A: "uploaded", B: "uploaded"}, {str(B)}) == [B]


def test_an_unknown_blob_stays_named_after_pickling() -> None:
    """A BlobUnknownError can be sent to another process."""
    error = BlobUnknownError("words", status=404, codes=("BLOB_UNKNOWN",), blobs=frozenset({A}))
    copied = pickle.loads(pickle.dumps(error))  # noqa: S301 our own bytes
    assert (str(copied), copied.status, copied.codes, copied.blobs) == ("words", 404, error.codes, {A})
