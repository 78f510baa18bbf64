"""Manifests and indexes (image specification, manifest.md and image-index.md): parsed values with their bytes."""

import json
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

from crossmount.errors import InvalidManifestError
from crossmount.oci.descriptor import (
    BUILD_CACHE,
    INDEX_TYPES,
    MANIFEST_TYPES,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    each_once,
)
from crossmount.oci.digest import Digest

MANIFEST_BYTES_MAX = 4 * 1024 * 1024
"""The largest manifest that a registry must accept (distribution specification, "Pushing Manifests")."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """One manifest or index with its bytes.

    Attributes:
        descriptor: its own type, digest and size.
        content: the exact bytes.
        blobs: config and layers, each digest once, in order. An index has none, unless it is a build cache.
        children: the manifests of an index; nothing for a manifest.
    """

    descriptor: Descriptor
    content: bytes
    blobs: tuple[Descriptor, ...] = ()
    children: tuple[Descriptor, ...] = ()

    @classmethod
    def parse(
        cls, content: bytes, *, media_type: str | None = None, digest: Digest | None = None, where: str
    ) -> Self:
        """Parse the bytes of a manifest or an index.

        Args:
            content: the bytes, at most `MANIFEST_BYTES_MAX`.
            media_type: the type in its descriptor or the Content-Type; without one its own `mediaType` is used.
            digest: the digest that the bytes must have; without one their sha256 is computed.
            where: its name in errors.

        Raises:
            InvalidManifestError: wrong digest, too large, no JSON object, or an unsupported type.
        """
        if len(content) > MANIFEST_BYTES_MAX:
            raise InvalidManifestError(f"{where}: {len(content)} bytes, a manifest may have 4 MiB")
        if digest is not None and Digest.of(content, algorithm=digest.algorithm) != digest:
            raise InvalidManifestError(f"{where}: its bytes do not have the digest {digest}")
        document = _json_object(content, where)
        own_type = document.get("mediaType")
        kind = media_type or (own_type if isinstance(own_type, str) else "") or _guess_type(document)
        if isinstance(own_type, str) and own_type and own_type != kind:
            raise InvalidManifestError(
                f"{where}: it says it is {own_type[:200]!r}, what points at it says {kind!r:.200}"
            )
        _refuse_both(kind, document, where)
        descriptor = Descriptor(kind, digest or Digest.of(content), len(content))
        disagree = partial(_two_sizes, where)
        if descriptor.is_index:
            named = _descriptors(document, "manifests", where)
            blobs = each_once((one for one in named if one.is_blob), disagree=disagree)
            return cls(descriptor, content, blobs, tuple(one for one in named if not one.is_blob))
        if descriptor.is_manifest:
            config = Descriptor.from_json(document.get("config"), where=f"{where}: config")
            layers = _descriptors(document, "layers", where)
            blobs = each_once((config, *layers), disagree=disagree)
            return cls(descriptor, content, blobs)
        raise InvalidManifestError(f"{where}: {_unfollowed(kind, document)}")

    @property
    def is_build_cache(self) -> bool:
        """Whether this is a build cache as BuildKit writes it without `image-manifest=true`: an index of blobs."""
        return self.descriptor.is_index and any(blob.media_type == BUILD_CACHE for blob in self.blobs)


def _json_object(content: bytes, where: str) -> dict[str, Any]:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        raise InvalidManifestError(f"{where}: not JSON: it starts with {content[:24]!r}") from None
    if not isinstance(document, dict):
        raise InvalidManifestError(f"{where}: a manifest must be a JSON object")
    return document


def _refuse_both(kind: str, document: dict[str, Any], where: str) -> None:
    """Refuse a document that other clients could read as the other kind (CVE-2021-41190)."""
    other = ("config", "layers") if kind in INDEX_TYPES else ("manifests",) if kind in MANIFEST_TYPES else ()
    found = [key for key in other if document.get(key)]
    if found:
        raise InvalidManifestError(f"{where}: of type {kind}, and yet it has {found[0]}")


def _guess_type(document: dict[str, Any]) -> str:
    """Return the type of a document without `mediaType`, which OCI documents may omit."""
    if "config" in document or "layers" in document:
        return OCI_MANIFEST
    return OCI_INDEX if "manifests" in document else ""


def _descriptors(document: dict[str, Any], key: str, where: str) -> tuple[Descriptor, ...]:
    items = document.get(key)
    if not isinstance(items, list):
        raise InvalidManifestError(f"{where}: it has no list of {key}")
    return tuple(Descriptor.from_json(item, where=f"{where}: {key}[{i}]") for i, item in enumerate(items))


def _two_sizes(where: str, descriptor: Descriptor, size: int) -> InvalidManifestError:
    return InvalidManifestError(f"{where}: {descriptor.digest} has two sizes, {size} and {descriptor.size}")


def _unfollowed(kind: str, document: dict[str, Any]) -> str:
    if document.get("schemaVersion") == 1:
        return "an image of Docker's schema 1: convert it, for example with skopeo copy --format=oci"
    return f"type {kind[:200]!r} is neither an image manifest nor an image index"
