"""Reads the references of a manifest: its blobs, child manifests and subject. Accepts any media type."""

import json
from dataclasses import dataclass, field
from typing import Any

from crossmount.errors import InvalidManifestError
from crossmount.oci.descriptor import OCI_INDEX, OCI_MANIFEST, Descriptor
from crossmount.oci.digest import Digest
from crossmount.testing.values import DistributionError


@dataclass(frozen=True, slots=True)
class StoredManifest:
    """An accepted manifest.

    Attributes:
        descriptor: its type, digest and size.
        content: the exact bytes.
        blobs: config and layers, without non-distributable layers.
        children: the manifests that an index lists.
        subject: the digest of its subject (image specification, "subject").
        artifact_type: its type in a list of referrers.
        annotations: its own annotations.
    """

    descriptor: Descriptor
    content: bytes
    blobs: tuple[Digest, ...] = ()
    children: tuple[Digest, ...] = ()
    subject: Digest | None = None
    artifact_type: str | None = None
    annotations: dict[str, str] = field(default_factory=dict, hash=False)

    def referrer(self) -> dict[str, Any]:
        """Return its descriptor for a list of referrers."""
        entry: dict[str, Any] = {
            "mediaType": self.descriptor.media_type,
            "digest": self.descriptor.digest,
            "size": self.descriptor.size,
        }
        if self.artifact_type:
            entry["artifactType"] = self.artifact_type
        if self.annotations:
            entry["annotations"] = self.annotations
        return entry


def read_manifest(content: bytes, *, media_type: str | None, digest: Digest) -> StoredManifest:
    """Read a document of any media type that has the fields of an image manifest or an index.

    Args:
        content: its bytes.
        media_type: the request's Content-Type.
        digest: the digest of `content`.

    Raises:
        DistributionError: MANIFEST_INVALID.
    """
    try:
        return _parse(content, media_type, digest)
    except InvalidManifestError as error:
        raise DistributionError(400, "MANIFEST_INVALID", str(error)) from None


def _parse(content: bytes, media_type: str | None, digest: Digest) -> StoredManifest:
    document = _document(content)
    declared = document.get("mediaType")
    guessed = OCI_INDEX if "manifests" in document else OCI_MANIFEST
    kind = media_type or (declared if isinstance(declared, str) else guessed)
    if isinstance(declared, str) and declared != kind:
        raise InvalidManifestError(f"manifest: mediaType {declared[:100]!r} sent as {kind[:100]!r}")
    config = _optional(document, "config")
    layers, children = _many(document, "layers"), _many(document, "manifests")
    subject = _optional(document, "subject")
    artifact_type = document.get("artifactType") or (config.media_type if config else None)
    annotations = document.get("annotations")
    return StoredManifest(
        Descriptor(kind, digest, len(content)),
        content,
        blobs=tuple(d.digest for d in ((config,) if config else ()) + layers if not _is_elsewhere(d)),
        children=tuple(d.digest for d in children),
        subject=subject.digest if subject else None,
        artifact_type=artifact_type if isinstance(artifact_type, str) else None,
        annotations=annotations if isinstance(annotations, dict) else {},
    )


def _document(content: bytes) -> dict[str, Any]:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        raise InvalidManifestError("manifest: not JSON") from None
    if not isinstance(document, dict) or document.get("schemaVersion") != 2:
        raise InvalidManifestError("manifest: not a JSON object with schemaVersion 2")
    return document


def _optional(document: dict[str, Any], key: str) -> Descriptor | None:
    value = document.get(key)
    return None if value is None else Descriptor.from_json(value, where=key)


def _many(document: dict[str, Any], key: str) -> tuple[Descriptor, ...]:
    value = document.get(key)
    if value is None:
        return ()
    if not isinstance(value, list):
        raise InvalidManifestError(f"{key}: not a list")
    return tuple(Descriptor.from_json(item, where=f"{key}[{i}]") for i, item in enumerate(value))


def _is_elsewhere(descriptor: Descriptor) -> bool:
    """Return whether a registry may lack it: a non-distributable layer, or Docker's foreign layer."""
    return "nondistributable" in descriptor.media_type or "foreign" in descriptor.media_type
