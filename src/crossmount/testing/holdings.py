"""The content of a registry: repositories with their blobs, manifests and tags, on one store of bytes."""

import json
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import field
from typing import Any

from crossmount._dataclass import dataclass
from crossmount.errors import InvalidManifestError
from crossmount.oci.descriptor import OCI_INDEX, OCI_MANIFEST, Descriptor, Digest
from crossmount.testing.routes import PageRequest
from crossmount.testing.storage import BlobStore
from crossmount.testing.values import Content, DistributionError


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


@dataclass(slots=True)
class StoredRepository:
    """The content of one repository."""

    blobs: set[Digest] = field(default_factory=set)
    manifests: dict[Digest, StoredManifest] = field(default_factory=dict)
    tags: dict[str, Digest] = field(default_factory=dict)

    def resolve(self, target: str | Digest) -> StoredManifest | None:
        """Return the manifest of a tag or digest, if there is one."""
        digest = target if isinstance(target, Digest) else self.tags.get(target)
        return None if digest is None else self.manifests.get(digest)

    def references(self, digest: Digest) -> bool:
        """Return whether a manifest of this repository names the blob."""
        return any(digest in manifest.blobs for manifest in self.manifests.values())

    def missing(self, manifest: StoredManifest) -> tuple[Digest, ...]:
        """Return the blobs and manifests that a manifest names and the repository lacks."""
        blobs = (digest for digest in manifest.blobs if digest not in self.blobs)
        held = self.blobs | self.manifests.keys()  # as distribution: a build cache's index names blobs
        children = (digest for digest in manifest.children if digest not in held)
        return tuple(dict.fromkeys((*blobs, *children)))

    def referrers(self, digest: Digest, artifact_type: str | None) -> list[StoredManifest]:
        """Return the manifests whose subject is `digest`; None as artifact type returns all types."""
        return [
            manifest
            for manifest in self.manifests.values()
            if manifest.subject == digest and artifact_type in {None, manifest.artifact_type}
        ]

    def remove_manifest(self, digest: Digest) -> None:
        """Remove a manifest and the tags that point at it."""
        del self.manifests[digest]
        self.tags = {tag: target for tag, target in self.tags.items() if target != digest}


class Holdings:
    """All repositories of a registry; a repository exists once it has a blob or a manifest."""

    def __init__(self, store: BlobStore) -> None:
        self.store = store
        self.repositories: dict[str, StoredRepository] = {}

    def find(self, name: str) -> StoredRepository:
        """Return a repository for reading; an unknown one is empty and is not created."""
        return self.repositories.get(name, StoredRepository())

    def create(self, name: str) -> StoredRepository:
        """Return a repository for writing; an unknown one is created."""
        return self.repositories.setdefault(name, StoredRepository())

    def blob(self, name: str, digest: Digest) -> Content | None:
        """Return a blob of a repository, if it is there."""
        return self.store.get(digest) if digest in self.find(name).blobs else None

    def put_blob(self, name: str, data: bytes, *, algorithm: str = "sha256") -> Digest:
        """Put a blob into a repository."""
        buffer = self.store.buffer()
        buffer.write(data)
        digest = buffer.digest(algorithm)
        self.store.add(buffer, digest)
        self.create(name).blobs.add(digest)
        return digest

    def holders(self, digest: Digest) -> list[str]:
        """Return the names of the repositories that have a blob, sorted."""
        return sorted(name for name, holding in self.repositories.items() if digest in holding.blobs)


def cut_page(names: Iterable[str], page: PageRequest, *, longest: int) -> tuple[list[str], bool]:
    """Return one page of a sorted list, and whether more names follow.

    Args:
        names: all names, in any order.
        page: the requested part.
        longest: maximum number of names on a page.
    """
    ordered = sorted(names)
    start = bisect_right(ordered, page.last) if page.last else 0
    count = longest if page.count is None else min(page.count, longest)
    return ordered[start : start + count], 0 < count < len(ordered) - start
