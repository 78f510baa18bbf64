"""The demo's eight images, with the same bytes each time, and their pushes, each in a process of its own."""

import asyncio
import hashlib
import io
import json
import os
import random
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from crossmount._dataclass import dataclass
from crossmount._formatting import one_line
from crossmount.cli.demo.registry import child
from crossmount.cli.progress.transfer import index_failure
from crossmount.oci import Descriptor, Digest, Repository
from crossmount.oci.descriptor import OCI_INDEX, OCI_MANIFEST, REF_NAME

CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
MB = 1000 * 1000

SHARED = {"base": 24 * MB, "runtime": 16 * MB, "libraries": 12 * MB}
"""Bytes of the layers that several images share."""

OWN = 1 * MB
"""Bytes of each image's own layer."""

FIRST = "api"
"""Yesterday's image; it has every shared layer."""

IMAGES = {
    FIRST: ("base", "runtime", "libraries"),
    "web": ("base", "runtime"),
    "worker": ("base", "runtime", "libraries"),
    "billing": ("base", "runtime", "libraries"),
    "search": ("base", "runtime", "libraries"),
    "mailer": ("base", "runtime"),
    "reports": ("base", "runtime", "libraries"),
    "gateway": ("base", "runtime"),
}
"""The shared layers of each image, below its own layer."""


@dataclass(frozen=True, slots=True)
class DemoImage:
    """One image of the layout.

    Attributes:
        name: its tag in the layout.
        size: bytes of its blobs.
    """

    name: str
    size: int


def make_images(folder: Path) -> tuple[DemoImage, ...]:
    """Write the layout into the new folder `folder`, and return its images."""
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    layers = {name: _write(blobs, LAYER, _layer(name, size)) for name, size in SHARED.items()}
    images, manifests = [], []
    for name, shared in IMAGES.items():
        own = _write(blobs, LAYER, _layer(name, OWN))
        parts = [*(layers[part] for part in shared), own]
        config = _write(blobs, CONFIG, _json(_config([part.digest for part in parts])))
        manifest = _write(blobs, OCI_MANIFEST, _json(_manifest(config, parts)))
        manifests.append({**_descriptor(manifest), "annotations": {REF_NAME: name}})
        images.append(DemoImage(name, sum(part.size for part in (config, *parts))))
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests}
    (folder / "index.json").write_bytes(_json(index))
    (folder / "oci-layout").write_bytes(_json({"imageLayoutVersion": "1.0.0"}))
    return tuple(images)


def _layer(name: str, size: int) -> bytes:
    """Return a tar with one file that cannot be compressed."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest())
    content = random.Random(seed).randbytes(size)  # noqa: S311 the same bytes each time
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        entry = tarfile.TarInfo(f"opt/{name}/data")
        entry.size = size
        tar.addfile(entry, io.BytesIO(content))
    return whole.getvalue()


def _write(blobs: Path, media_type: str, content: bytes) -> Descriptor:
    digest = Digest.of(content)
    (blobs / digest.encoded).write_bytes(content)
    return Descriptor(media_type, digest, len(content))


def _config(layers: list[Digest]) -> dict[str, object]:
    return {
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": layers},
    }


def _manifest(config: Descriptor, layers: list[Descriptor]) -> dict[str, object]:
    return {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": _descriptor(config),
        "layers": [_descriptor(layer) for layer in layers],
    }


def _descriptor(content: Descriptor) -> dict[str, object]:
    return {"mediaType": content.media_type, "digest": content.digest, "size": content.size}


def _json(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


_LOCAL = "127.0.0.1,localhost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushed:
    """One image that was pushed.

    Attributes:
        size: bytes of its blobs.
        uploaded: bytes of the blobs that were uploaded.
        blobs: the digests of its blobs.
        trouble: why the index failed, empty if it did not.
    """

    image: str
    repository: Repository
    size: int
    uploaded: int
    mounted: int
    index: str
    seconds: float
    blobs: tuple[Digest, ...]
    trouble: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushes:
    """How the demo's images are pushed.

    Attributes:
        layout: the folder with the images.
        address: of the registry.
        index: the index's URL.
        namespace: the demo's own namespace in the index.
    """

    layout: Path
    address: str
    index: str
    namespace: str

    async def run(self, images: tuple[DemoImage, ...], on_pushed: Callable[[Pushed], None]) -> list[Pushed]:
        """Push the first image, then all others at once; call `on_pushed` after each.

        Raises:
            click.ClickException: a push failed.
        """

        async def one(image: DemoImage) -> Pushed:
            pushed = await self._push(image)
            on_pushed(pushed)
            return pushed

        first = next(image for image in images if image.name == FIRST)
        done = [await one(first)]
        tasks = []
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(image)) for image in images if image is not first]
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return done + [task.result() for task in tasks]

    async def _push(self, image: DemoImage) -> Pushed:
        repository = Repository(self.address, f"demo/{image.name}")
        async with child(self._command(image, repository), env=self._environment()) as process:
            answer, complaint = await process.communicate()
        if process.returncode != 0:
            words = one_line(complaint.decode(errors="replace")).removeprefix("crossmount: ")
            raise click.ClickException(f"pushing {repository}: {words or f'it ended with {process.returncode}'}")
        return _parse_report(image, repository, json.loads(answer), complaint.decode(errors="replace"))

    def _command(self, image: DemoImage, repository: Repository) -> list[str]:
        return [
            *(
                sys.executable,
                "-P",
                "-m",
                "crossmount",
                "push",
                f"oci:{self.layout}:{image.name}",
                f"{repository}:1",
            ),
            *("--json", "--plain-http", "--index", self.index, "--namespace", self.namespace),
        ]

    def _environment(self) -> dict[str, str]:
        """Return our environment; requests to the demo's registry use no HTTP proxy."""
        ours = {name: value for name, value in os.environ.items() if name not in {"NO_PROXY", "no_proxy"}}
        around = os.environ.get("NO_PROXY") or os.environ.get("no_proxy")
        return {**ours, "NO_PROXY": f"{around},{_LOCAL}" if around else _LOCAL}


def _parse_report(image: DemoImage, repository: Repository, report: dict[str, Any], said: str) -> Pushed:
    sizes = report["bytes"]
    return Pushed(
        image=image.name,
        repository=repository,
        size=image.size,
        uploaded=sizes["uploaded"],
        mounted=sizes["mounted"],
        index=report["index"],
        seconds=report["seconds"],
        blobs=tuple(Digest(blob["digest"]) for blob in report["blobs"]),
        trouble=next((words for words in map(index_failure, said.splitlines()) if words), ""),
    )
