"""Copies between two or three docker-registry processes with one Valkey, by several worker processes."""

import asyncio
import json
import os
import signal
import subprocess
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from crossmount.errors import CopyFailedError
from crossmount.index import open_index
from crossmount.oci import Repository
from crossmount.registry import ClientOptions, RetryPolicy
from crossmount.transfer.cache import BlobCache
from crossmount.transfer.copy import copy
from crossmount.transfer.image_pusher import Limits
from crossmount.transfer.push import push
from crossmount.transfer.registries import Registries
from support.commands import Shell
from support.images import MadeImage, make_layout
from support.link import link
from support.registries import DockerRegistry, StartRegistry, run, run_docker_registry
from support.servers import Server
from support.waiting import PATIENCE, until

OPTIONS = ClientOptions(plain_http=True, retry=RetryPolicy(attempts=3, outage=0.0, wait_initial=0.05))
SIZE = 1_500_000
WORKERS = 8


@pytest.fixture
def image(tmp_path: Path) -> MadeImage:
    """An image of four layers large enough to wait for, which no other test uses."""
    return make_layout(tmp_path / "image", [os.urandom(SIZE) for _ in range(4)])


@pytest.fixture
def a(docker_registry: DockerRegistry, image: MadeImage) -> DockerRegistry:
    """A registry with the image as team/app:1, which is in no index."""
    asyncio.run(push(image.path, f"{docker_registry.address}/team/app:1", options=OPTIONS))
    return docker_registry


@pytest.fixture
def b(start_docker_registry: StartRegistry) -> DockerRegistry:
    """An empty registry."""
    return start_docker_registry()


@pytest.fixture
def c(start_docker_registry: StartRegistry) -> DockerRegistry:
    """Another empty registry."""
    return start_docker_registry()


def read_back(address: str, name: str, image: MadeImage, folder: Path) -> None:
    """Copy an image back with skopeo, and compare its digest."""
    run(
        "skopeo",
        *("--insecure-policy", "copy", "--preserve-digests", "--src-tls-verify=false"),
        *(f"docker://{address}/{name}:1", f"oci:{folder}:back"),
    )
    assert json.loads((folder / "index.json").read_text())["manifests"][0]["digest"] == image.root.digest


def worker(shell: Shell, a: DockerRegistry, dest: str, valkey: Server, *more: str) -> "subprocess.Popen[str]":
    """Start `crossmount copy` in its own process."""
    index = ("--index", valkey.url, "--plain-http", "--json")
    return shell.start("copy", f"{a.address}/team/app:1", dest, *index, *more)


def end(processes: "list[subprocess.Popen[str]]") -> list[dict[str, object]]:
    """Wait for the workers, which must succeed, and return their output."""
    documents = []
    for process in processes:
        out, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, err
        documents.append(json.loads(out))
    return documents


def test_each_layer_is_fetched_once_for_many_workers(
    shell: Shell, a: DockerRegistry, b: DockerRegistry, valkey: Server, image: MadeImage, tmp_path: Path
) -> None:
    """Eight processes copy to eight repositories: A sends and B receives each layer once, by their own logs."""
    end([worker(shell, a, f"{b.address}/team/app-{n}", valkey) for n in range(WORKERS)])
    assert [b.uploads(layer.digest) for layer in image.layers] == [1] * 4
    assert [a.downloads(layer.digest) for layer in image.layers] == [1] * 4
    assert [b.mounts(layer.digest) for layer in image.layers] == [WORKERS - 1] * 4
    for number in range(WORKERS):
        read_back(b.address, f"team/app-{number}", image, tmp_path / f"back-{number}")


def test_the_nearer_registry_is_fetched_from(
    shell: Shell,
    b: DockerRegistry,
    c: DockerRegistry,
    docker_registry: DockerRegistry,
    valkey: Server,
    image: MadeImage,
    tmp_path: Path,
) -> None:
    """A layer is fetched from the near registry B when the source A is behind a slow link."""
    with link(docker_registry.address, round_trip=0.05) as far:
        asyncio.run(push(image.path, f"{far}/team/app:1", options=OPTIONS))
        index = ("--index", valkey.url, "--json")
        http = [word for place in (far, b.address, c.address) for word in ("--plain-http-for", place)]
        first = shell("copy", f"{far}/team/app:1", f"{b.address}/mirror/app", *http, *index)
        assert first.status == 0, first.err
        before = docker_registry.downloads()
        second = shell("copy", f"{far}/team/app:1", f"{c.address}/mirror/app", *http, *index)
        assert second.status == 0, second.err
    assert docker_registry.downloads() == before
    assert [b.downloads(layer.digest) for layer in image.layers] == [1] * 4
    blobs = second.document["images"][0]["blobs"]
    assert {blob["fetched_from"] for blob in blobs} == {f"{b.address}/mirror/app"}
    read_back(c.address, "mirror/app", image, tmp_path / "back")


def test_the_preferred_registry_is_fetched_from(
    shell: Shell,
    a: DockerRegistry,
    b: DockerRegistry,
    c: DockerRegistry,
    valkey: Server,
    image: MadeImage,
) -> None:
    """`--prefer` decides between registries at the same distance."""
    end([worker(shell, a, f"{b.address}/mirror/app", valkey)])
    end([worker(shell, a, f"{c.address}/mirror/app", valkey, "--prefer", b.address)])
    assert [b.downloads(layer.digest) for layer in image.layers] == [1] * 4
    assert [a.downloads(layer.digest) for layer in image.layers] == [1] * 4


def test_killed_workers_do_no_damage(
    shell: Shell,
    docker_registry: DockerRegistry,
    b: DockerRegistry,
    valkey: Server,
    image: MadeImage,
    tmp_path: Path,
) -> None:
    """Other workers upload the layers of workers that are killed (-9); the cache and B stay correct."""
    cache = tmp_path / "cache"
    with link(docker_registry.address, round_trip=0.05, rate=4_000_000) as far:
        asyncio.run(push(image.path, f"{docker_registry.address}/team/app:1", options=OPTIONS))
        source = replace(docker_registry, address=far)
        more = ("--cache", str(cache))
        first = [worker(shell, source, f"{b.address}/team/app-{n}", valkey, *more) for n in range(3)]
        asyncio.run(until(lambda: bool(list(cache.glob("incoming/*")))))
        others = [worker(shell, source, f"{b.address}/team/app-{n}", valkey, *more) for n in range(3, 6)]
        for process in first:
            process.send_signal(signal.SIGKILL)
        for process in first:
            process.communicate()
        end(others)
    for number in range(3, 6):
        read_back(b.address, f"team/app-{number}", image, tmp_path / f"back-{number}")
    assert not list(cache.glob("incoming/*"))
    for blob in cache.glob("blobs/sha256/*"):
        assert blob.read_bytes() == image.blob_path(f"sha256:{blob.name}").read_bytes()


async def test_a_source_that_goes_away_in_the_middle(
    tmp_path: Path, b: DockerRegistry, c: DockerRegistry, valkey: Server, image: MadeImage
) -> None:
    """When A dies during a copy, the layers come from B, or the error names the layer that failed."""
    dying = run_docker_registry(tmp_path / "dying", auth="", relative=False, deletes=True)
    a = dying.__enter__()
    with link(a.address, round_trip=0.05, rate=2_000_000) as far:
        await push(image.path, f"{a.address}/team/app:1", options=OPTIONS)
        async with Registries(OPTIONS) as registries, open_index(valkey.url) as index:
            registries.name(b.address)
            await push(image.path, f"{b.address}/mirror/app:1", options=OPTIONS, index=index)
            one = Limits(uploads=1)  # so that not all is in the sockets' buffers by then
            going = asyncio.create_task(
                copy(
                    f"{far}/team/app:1",
                    f"{c.address}/app",
                    registries=registries,
                    index=index,
                    prefer=[far],
                    limits=one,
                )
            )
            alone = asyncio.create_task(
                copy(f"{far}/team/app:1", f"{c.address}/alone", options=OPTIONS, limits=one)
            )
            held = c.folder / "storage" / "docker" / "registry" / "v2" / "repositories"
            await until(lambda: all(_is_receiving(held / name) for name in ("app", "alone")))
            dying.__exit__(None, None, None)
            report = await going
            with pytest.raises(CopyFailedError) as raised:
                await alone
    assert f"{b.address}/mirror/app" in {blob.fetched_from for blob in report.copied[0].blobs}
    read_back(c.address, "app", image, tmp_path / "back")
    said = str(raised.value)
    assert f"{far}/v2/team/app/blobs/sha256:" in said or f"{far}/team/app" in said
    assert any(blob.digest in said for blob in image.blobs)


async def test_one_cache_for_two_destinations(
    a: DockerRegistry, b: DockerRegistry, c: DockerRegistry, image: MadeImage, tmp_path: Path
) -> None:
    """A copy to two registries fetches each blob once, and both have the image afterwards."""
    dests = (f"{b.address}/app", f"{c.address}/app")
    store = BlobCache(tmp_path / "cache")
    await copy(f"{a.address}/team/app:1", *dests, options=OPTIONS, cache=store)
    assert [a.downloads(blob.digest) for blob in image.blobs] == [1] * 5
    read_back(b.address, "app", image, tmp_path / "back-b")
    read_back(c.address, "app", image, tmp_path / "back-c")


async def test_the_index_knows_both_clusters(
    a: DockerRegistry, b: DockerRegistry, valkey: Server, image: MadeImage
) -> None:
    """After a copy the index has each layer on both registries."""
    async with open_index(valkey.url) as index:
        await copy(f"{a.address}/team/app:1", f"{b.address}/app", options=OPTIONS, index=index)
        known = set(await index.locations(image.layers[0].digest))
    assert known == {Repository.parse(f"{a.address}/team/app"), Repository.parse(f"{b.address}/app")}


def _is_receiving(repository: Path) -> bool:
    with suppress(FileNotFoundError):  # one that has just ended
        return any(path.stat().st_size for path in repository.glob("_uploads/*/data"))
    return False
