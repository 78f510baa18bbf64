"""The image of a world: its bytes, and its layout on disk."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crossmount.asyncio import Digest
from promises.worlds import World
from support.layouts import named, write, write_root

TAG = "1"
CONFIG_KIND = "application/vnd.oci.image.config.v1+json"
MANIFEST_KIND = "application/vnd.oci.image.manifest.v1+json"
LAYER_KIND = "application/vnd.oci.image.layer.v1.tar"


@dataclass(frozen=True, slots=True)
class Content:
    """The image of a world: digests and bytes.

    Attributes:
        layers: in the world's order, each once.
        config: of the image.
        manifest: its bytes.
    """

    layers: tuple[tuple[Digest, bytes], ...]
    config: tuple[Digest, bytes]
    manifest: bytes

    @property
    def blobs(self) -> dict[Digest, bytes]:
        """All blobs."""
        return dict((self.config, *self.layers))


def content_of(world: World) -> Content:
    """Return the image of a world; the same world has the same bytes."""
    layers = []
    for number, layer in enumerate(world.layers):
        data = hashlib.shake_128(b"layer %d" % number).digest(layer.size)
        layers.append((Digest.of(data, algorithm=layer.algorithm), data))
    config = b'{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}'
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_KIND,
        "config": entry(CONFIG_KIND, Digest.of(config), config),
        "layers": [
            entry(LAYER_KIND, digest, data)
            for layer, (digest, data) in zip(world.layers, layers, strict=True)
            for _ in range(layer.times)
        ],
    }
    return Content(tuple(layers), (Digest.of(config), config), json.dumps(document).encode())


def entry(kind: str, digest: Digest, data: bytes) -> dict[str, Any]:
    """Return a descriptor."""
    return {"mediaType": kind, "digest": digest, "size": len(data)}


def write_layout(world: World, content: Content, folder: Path) -> Path:
    """Write a world's image into a folder."""
    for layer, (digest, data) in zip(world.layers, content.layers, strict=True):
        write(folder, data, algorithm=digest.algorithm)
        if layer.missing:
            (folder / "blobs" / digest.algorithm / digest.encoded).unlink()
    write(folder, content.config[1])
    return write_root(folder, named(write(folder, content.manifest, MANIFEST_KIND), TAG))
