"""The demo's images: an image layout with eight images, the same bytes each time."""

import hashlib
import io
import json
import random
import tarfile
from dataclasses import dataclass
from pathlib import Path

from crossmount.oci import Descriptor, Digest
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
