"""The image of a world: its bytes, and its layout on disk."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crossmount.asyncio import Digest
from promises.worlds import Family, World
from support.layouts import named, write, write_root

TAG = "1"
CONFIG_KIND = "application/vnd.oci.image.config.v1+json"
MANIFEST_KIND = "application/vnd.oci.image.manifest.v1+json"
INDEX_KIND = "application/vnd.oci.image.index.v1+json"
LAYER_KIND = "application/vnd.oci.image.layer.v1.tar"


@dataclass(frozen=True, slots=True)
class Content:
    """The image of a world: digests and bytes.

    Attributes:
        layers: in the world's order, each once.
        configs: of the image, one for each platform.
        manifests: media type and bytes, the root last.
    """

    layers: tuple[tuple[Digest, bytes], ...]
    configs: tuple[tuple[Digest, bytes], ...]
    manifests: tuple[tuple[str, bytes], ...]

    @property
    def blobs(self) -> dict[Digest, bytes]:
        """All blobs."""
        return dict((*self.configs, *self.layers))


def content_of(world: World) -> Content:
    """Return the image of a world; the same world has the same bytes."""
    layers = []
    for number, layer in enumerate(world.layers):
        data = hashlib.shake_128(b"layer %d" % number).digest(layer.size)
        layers.append((Digest.of(data, algorithm=layer.algorithm), data))
    entries = [
        entry(LAYER_KIND, digest, data)
        for layer, (digest, data) in zip(world.layers, layers, strict=True)
        for _ in range(layer.times)
    ]
    architectures = ("amd64", "arm64") if Family.PLATFORMS in world else ("amd64",)
    configs, children = [], []
    for architecture in architectures:
        config = {"architecture": architecture, "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}}
        configs.append(named_bytes(config))
        document = {
            "schemaVersion": 2,
            "mediaType": MANIFEST_KIND,
            "config": entry(CONFIG_KIND, *configs[-1]),
            "layers": entries,
        }
        children.append(named_bytes(document))
        entries = entries[:1]  # platforms share their first layer
    manifests = [(MANIFEST_KIND, data) for _, data in children]
    if Family.PLATFORMS in world:
        platforms = [{"architecture": architecture, "os": "linux"} for architecture in architectures]
        listed = [
            {**entry(MANIFEST_KIND, *child), "platform": platform}
            for child, platform in zip(children, platforms, strict=True)
        ]
        manifests.append(
            (INDEX_KIND, named_bytes({"schemaVersion": 2, "mediaType": INDEX_KIND, "manifests": listed})[1])
        )
    return Content(tuple(layers), tuple(configs), tuple(manifests))


def named_bytes(document: object) -> tuple[Digest, bytes]:
    """Return a document as JSON, and its digest."""
    data = json.dumps(document).encode()
    return Digest.of(data), data


def entry(kind: str, digest: Digest, data: bytes) -> dict[str, Any]:
    """Return a descriptor."""
    return {"mediaType": kind, "digest": digest, "size": len(data)}


def write_layout(world: World, content: Content, folder: Path) -> Path:
    """Write a world's image into a folder."""
    for layer, (digest, data) in zip(world.layers, content.layers, strict=True):
        write(folder, data, algorithm=digest.algorithm)
        if layer.missing:
            (folder / "blobs" / digest.algorithm / digest.encoded).unlink()
    for _, data in content.configs:
        write(folder, data)
    *_, root = [write(folder, data, kind) for kind, data in content.manifests]
    return write_root(folder, named(root, TAG))
