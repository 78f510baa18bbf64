"""Concurrent pushers with a real Valkey and a real docker-registry, counted in the registry's log."""

import asyncio
import os
from pathlib import Path

from crossmount.index import open_index
from crossmount.registry import ClientOptions
from crossmount.transfer.push import push
from crossmount.transfer.report import PushReport
from support.images import MadeImage, make_layout
from support.registries import DockerRegistry
from support.servers import Server

OPTIONS = ClientOptions(plain_http=True)
SIZE = 1_500_000


def make_fleet(folder: Path, count: int, *, shared: int = 4) -> tuple[list[bytes], list[MadeImage]]:
    """Make images that share `shared` layers and have one own layer each, unknown to other tests."""
    base = [os.urandom(SIZE) for _ in range(shared)]
    return base, [make_layout(folder / f"image-{i}", [*base, os.urandom(SIZE)]) for i in range(count)]


async def push_one(image: MadeImage, address: str, number: int, valkey: Server) -> PushReport:
    """Push like a separate runner: own connections and client, only the index is shared."""
    async with open_index(valkey.url) as index:
        return await push(image.path, f"{address}/team/app-{number}:1", index=index, options=OPTIONS)


async def test_pushers_released_at_once_upload_each_shared_layer_once(
    docker_registry: DockerRegistry, valkey: Server, tmp_path: Path
) -> None:
    """In the registry's log every layer arrives exactly once, however many push it at the same moment."""
    _, images = make_fleet(tmp_path, 8)
    reports = await asyncio.gather(
        *(push_one(image, docker_registry.address, number, valkey) for number, image in enumerate(images))
    )
    for layer in images[0].layers[:4]:
        assert docker_registry.uploads(layer.digest) == 1
    for image in images:
        assert docker_registry.uploads(image.layers[4].digest) == 1
    waited = [blob for report in reports for blob in report.blobs if blob.waited]
    assert waited
    assert {blob.outcome for blob in waited} == {"mounted"}
