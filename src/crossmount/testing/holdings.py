"""The repositories of a registry: their blobs, manifests and tags, on one store of bytes."""

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field

from crossmount.oci.digest import Digest
from crossmount.testing.manifests import StoredManifest
from crossmount.testing.routes import PageRequest
from crossmount.testing.storage import BlobStore
from crossmount.testing.values import Content


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
