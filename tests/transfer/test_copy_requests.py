"""The requests of a copy of many images, by their number."""

import re
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import pytest

from crossmount.fleet import Patience
from crossmount.index import Knowledge, MemoryMountIndex
from crossmount.oci import Located, Repository
from crossmount.testing import Fault, RegistryOptions, Reply, ScriptedRegistry
from crossmount.transfer.copy import CopySettings, copy_all
from crossmount.transfer.image_copier import CopyJob
from crossmount.transfer.push import push
from crossmount.transfer.registries import Registries
from support.copies import OPTIONS
from support.images import MadeImage, make_layers, make_layout

IMAGES, SHARED = 6, 3
EAGER = Patience(small=100)


@pytest.fixture
def images(tmp_path: Path) -> list[MadeImage]:
    """Images that share some layers; each has a layer and a config of its own."""
    own = make_layers(SHARED + IMAGES, size=3000)
    return [make_layout(tmp_path / f"{n}", [*own[:SHARED], own[SHARED + n]]) for n in range(IMAGES)]


@pytest.fixture
async def source(images: list[MadeImage]) -> AsyncIterator[ScriptedRegistry]:
    """A registry that has the images as app-0, app-1 and so on."""
    async with ScriptedRegistry() as registry:
        for number, image in enumerate(images):
            await push(image.path, f"{registry.address}/app-{number}:1", options=OPTIONS)
        registry.requests.clear()
        yield registry


async def copy_them(
    source: ScriptedRegistry, dest: ScriptedRegistry, index: MemoryMountIndex | None = None
) -> None:
    """Copy all images in one run, whose index is empty."""
    jobs = [CopyJob.of(f"{source.address}/app-{n}:1", [f"{dest.address}/app-{n}"]) for n in range(IMAGES)]
    await copy_all(jobs, CopySettings(options=OPTIONS, index=index or MemoryMountIndex(), patience=EAGER))


def counted(registry: ScriptedRegistry) -> Counter[str]:
    """Return the number of requests by method, kind of path, names of the query and status."""
    return Counter(
        " ".join(
            (
                record.method,
                re.sub(r"sha256:\w+|(?<=uploads/)[^/]+", "*", record.path.partition("app-")[2].partition("/")[2]),
                *sorted(
                    {name.partition("=")[0] for name in record.query.split("&")} & {"mount", "from", "digest"}
                ),
                str(record.status),
            )
        )
        for record in registry.requests
    )


async def test_many_images_are_copied_with_few_requests(source: ScriptedRegistry, images: list[MadeImage]) -> None:
    """Each manifest and blob is read once and stored once, each other use of a blob is one mount.

    Beyond that it is asked for blobs that the index does not know, and one HEAD proves its word on mounts.
    """
    blobs = {blob.digest for image in images for blob in image.blobs}
    uses = sum(len(image.blobs) for image in images)
    async with ScriptedRegistry() as dest:
        await copy_them(source, dest)
        assert counted(source) == {"GET manifests/1 200": IMAGES, "GET blobs/* 200": len(blobs)}
        found = counted(dest)
    assert len(blobs) <= found.pop("HEAD blobs/* 404") <= uses
    assert found == {
        "POST blobs/uploads/ mount 202": len(blobs),
        "PUT blobs/uploads/* digest 201": len(blobs),
        "POST blobs/uploads/ from mount 201": uses - len(blobs),
        "HEAD blobs/* 200": 1,
        "PUT manifests/1 201": IMAGES,
    }


async def test_one_image_finds_out_for_all_that_a_registry_does_not_mount(
    source: ScriptedRegistry, images: list[MadeImage]
) -> None:
    """Where mounts are answered 201 and do not happen, no image lacks a blob, though one HEAD was for all."""
    async with ScriptedRegistry(RegistryOptions(false_mounts=("*",), checks_references=False)) as dest:
        await copy_them(source, dest)
        for number, image in enumerate(images):
            found = dest.holdings.find(f"app-{number}")
            assert {blob.digest for blob in image.blobs} <= found.blobs
            assert found.tags == {"1": image.root.digest}


class CountedIndex(MemoryMountIndex):
    """An index that counts how often it is asked where a blob is, and may hide that at the start of a push."""

    def __init__(self, *, hides: bool = False) -> None:
        super().__init__()
        self.asked = 0
        self._hides = hides

    async def locations(self, layer: str) -> tuple[Repository, ...]:
        """Return the sources on all registries."""
        self.asked += 1
        return await super().locations(layer)

    async def look_up(
        self, layers: Iterable[str], dest: str | Located, *, account: str | None = None, deletions: bool = False
    ) -> Knowledge:
        """Read everything about many layers."""
        known = await super().look_up(layers, dest, account=account, deletions=deletions)
        return Knowledge() if self._hides else known


async def test_the_index_is_not_asked_for_an_origin_if_it_knows_no_other(source: ScriptedRegistry) -> None:
    """A blob that is known nowhere but on the source's registry is fetched without another question."""
    async with ScriptedRegistry() as dest:
        index = CountedIndex()
        await copy_them(source, dest, index)
        assert index.asked == 0


async def test_the_index_is_asked_if_the_source_fails(source: ScriptedRegistry, images: list[MadeImage]) -> None:
    """A blob that the source does not send is fetched from where the index knows it by then."""
    layer = images[0].layers[0]
    async with ScriptedRegistry() as dest, ScriptedRegistry() as other:
        other.put_blob("mirror", images[0].blob_path(layer.digest).read_bytes())
        index = CountedIndex(hides=True)
        await index.add_source(layer.digest, Repository.parse(f"{other.address}/mirror"))
        source.play(Fault(method="GET", path=f"*/blobs/{layer.digest}", action=Reply(status=404), times=None))
        job = CopyJob.of(f"{source.address}/app-0:1", [f"{dest.address}/app-0"])
        registries = Registries(OPTIONS)
        registries.name(other.address)
        async with registries:
            await copy_all([job], CopySettings(registries=registries, index=index, patience=EAGER))
        assert dest.holdings.find("app-0").tags == {"1": images[0].root.digest}
        assert index.asked == 1
