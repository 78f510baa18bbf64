"""Deterministic image layouts on disk that skopeo accepts."""

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from crossmount.oci import Descriptor, Digest
from crossmount.oci.descriptor import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, REF_NAME

_GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True, slots=True)
class Types:
    """The media types of one family."""

    manifest: str
    index: str
    config: str
    layer: str
    layer_gzip: str


TYPES = {
    "oci": Types(
        OCI_MANIFEST,
        OCI_INDEX,
        "application/vnd.oci.image.config.v1+json",
        "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.oci.image.layer.v1.tar+gzip",
    ),
    "docker": Types(
        DOCKER_MANIFEST,
        DOCKER_LIST,
        "application/vnd.docker.container.image.v1+json",
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
    ),
}


@dataclass(frozen=True, slots=True)
class MadeImage:
    """One image of a layout.

    Attributes:
        path: the layout's folder.
        tag: its name in the layout.
        root: the manifest or index that the tag names.
        manifests: the manifests, one a platform.
        configs: the configs, in the same order.
        layers: the layers, each once, in order.
    """

    path: Path
    tag: str | None
    root: Descriptor
    manifests: tuple[Descriptor, ...]
    configs: tuple[Descriptor, ...]
    layers: tuple[Descriptor, ...]

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """Configs and layers: all blobs of a push."""
        return (*self.configs, *self.layers)

    def blob_path(self, digest: str) -> Path:
        """Return the file of a blob or a manifest."""
        return self.path / "blobs" / digest[:6] / digest[7:]


def tar_layer(files: Mapping[str, bytes], *, compressed: bool = True) -> bytes:
    """Return a layer with these files; the same files make the same bytes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in sorted(files.items()):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    data = buffer.getvalue()
    return gzip.compress(data, compresslevel=1, mtime=0) if compressed else data


def make_layers(count: int, *, size: int = 64, seed: str = "layer") -> list[bytes]:
    """Return layers that all differ; another `seed` makes other layers.

    Args:
        count: how many.
        size: about how many bytes each has; they do not compress.
        seed: the same seed makes the same layers.
    """
    return [
        tar_layer({f"{seed}-{i}": hashlib.shake_128(f"{seed} {i}".encode()).digest(size)}) for i in range(count)
    ]


def make_layout(
    path: Path,
    layers: Sequence[bytes] = (),
    *,
    tag: str | None = "latest",
    family: Literal["oci", "docker"] = "oci",
    platforms: Sequence[str] = (),
    annotations: Mapping[str, str] | None = None,
    artifact_type: str | None = None,
) -> MadeImage:
    """Write an image into a layout, next to the images that it has.

    Args:
        path: the layout's folder; created if it is absent.
        layers: the layers' bytes, tar or gzipped tar; two small ones by default.
        tag: its `org.opencontainers.image.ref.name`; None leaves it nameless.
        family: whose media types.
        platforms: such as `linux/arm64`; each image ends with a layer of its own, two or more are in an index.
        annotations: of each manifest.
        artifact_type: of each manifest.
    """
    types = TYPES[family]
    path.mkdir(parents=True, exist_ok=True)
    (path / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    contents = tuple(layers) or tuple(make_layers(2))
    more: dict[str, Any] = {"annotations": dict(annotations)} if annotations else {}
    if artifact_type:
        more["artifactType"] = artifact_type
    made = [
        _write_image(
            path, types, (*contents, *((tar_layer({platform: b"own"}),) if platforms else ())), platform, more
        )
        for platform in (platforms or ("linux/amd64",))
    ]
    root = made[0].root
    if len(platforms) > 1:
        children = [
            {**_json(image.root), "platform": _platform(platform)}
            for image, platform in zip(made, platforms, strict=True)
        ]
        document = {"schemaVersion": 2, "mediaType": types.index, "manifests": children}
        root = _write(path, types.index, _dump(document))
    _name(path, root, tag)
    return MadeImage(
        path,
        tag,
        root,
        tuple(image.root for image in made),
        tuple(config for image in made for config in image.configs),
        tuple({layer.digest: layer for image in made for layer in image.layers}.values()),
    )


def to_archive(layout: Path, target: Path) -> Path:
    """Pack a layout into a tar, as `oci-archive:` and buildx `type=oci` have it, and return the tar's path."""
    with tarfile.open(target, "w") as tar:
        for item in sorted(layout.iterdir()):
            tar.add(item, arcname=item.name)
    return target


def _write_image(
    path: Path, types: Types, contents: Sequence[bytes], platform: str, more: Mapping[str, Any]
) -> MadeImage:
    layers = tuple(
        _write(path, types.layer_gzip if data.startswith(_GZIP_MAGIC) else types.layer, data) for data in contents
    )
    diff_ids = [Digest.of(gzip.decompress(data) if data.startswith(_GZIP_MAGIC) else data) for data in contents]
    rootfs = {"type": "layers", "diff_ids": diff_ids}
    config = _write(
        path, types.config, _dump({**_platform(platform), "config": {}, "rootfs": rootfs, "history": []})
    )
    document = {
        "schemaVersion": 2,
        "mediaType": types.manifest,
        "config": _json(config),
        "layers": [_json(layer) for layer in layers],
        **more,
    }
    root = _write(path, types.manifest, _dump(document))
    return MadeImage(path, None, root, (root,), (config,), layers)


def _write(path: Path, media_type: str, data: bytes) -> Descriptor:
    digest = Digest.of(data)
    file = path / "blobs" / digest.algorithm / digest.encoded
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    return Descriptor(media_type, digest, len(data))


def _name(path: Path, root: Descriptor, tag: str | None) -> None:
    file = path / "index.json"
    index: dict[str, Any] = (
        json.loads(file.read_text())
        if file.exists()
        else {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}
    )
    entry: dict[str, Any] = _json(root)
    if tag is not None:
        entry["annotations"] = {REF_NAME: tag}
    index["manifests"].append(entry)
    file.write_text(json.dumps(index))


def _platform(text: str) -> dict[str, str]:
    system, _, architecture = text.partition("/")
    return {"architecture": architecture, "os": system}


def _json(descriptor: Descriptor) -> dict[str, Any]:
    return {
        "mediaType": descriptor.media_type,
        "digest": str(descriptor.digest),
        "size": descriptor.size,
    }


def _dump(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()
