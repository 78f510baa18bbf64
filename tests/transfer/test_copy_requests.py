"""The requests of a copy of many images, by their number."""

import re
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from crossmount.fleet import Patience
from crossmount.index import MemoryMountIndex
from crossmount.testing import RegistryOptions, ScriptedRegistry
from crossmount.transfer.copy import CopySettings, copy_all
from crossmount.transfer.image_copier import CopyJob
from crossmount.transfer.push import push
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


async def copy_them(source: ScriptedRegistry, dest: ScriptedRegistry) -> None:
    """Copy all images in one run, whose index is empty."""
    jobs = [CopyJob.of(f"{source.address}/app-{n}:1", [f"{dest.address}/app-{n}"]) for n in range(IMAGES)]
    await copy_all(jobs, CopySettings(options=OPTIONS, index=MemoryMountIndex(), patience=EAGER))


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
