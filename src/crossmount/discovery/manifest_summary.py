"""The digests that a manifest names: small enough to store for every manifest of a registry. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from crossmount._parsing import decimal
from crossmount.errors import InvalidDigestError
from crossmount.index.protocol import Sighting
from crossmount.oci import Digest, Manifest, Repository
from crossmount.oci.image import is_foreign

TEXT_MAX = 64 * 1024
"""The longest stored text, in bytes: a longer one names more than 700 blobs."""


@dataclass(frozen=True, slots=True)
class ManifestSummary:
    """The blobs and the manifests that one manifest or index names.

    Attributes:
        digest: the manifest's own.
        blobs: config and layers with their sizes in bytes, each once, without foreign layers, which a registry
            need not store.
        children: the manifests of an index; a build cache of BuildKit is an index of blobs.
    """

    digest: Digest
    blobs: tuple[tuple[Digest, int], ...] = ()
    children: tuple[Digest, ...] = ()

    @classmethod
    def of(cls, manifest: Manifest) -> Self:
        """Return the summary of `manifest`."""
        return cls(
            manifest.descriptor.digest,
            tuple((blob.digest, blob.size) for blob in manifest.blobs if not is_foreign(blob)),
            tuple(dict.fromkeys(child.digest for child in manifest.children)),
        )

    @classmethod
    def read(cls, digest: Digest, text: bytes) -> Self | None:
        """Parse the text that `text` returned for the manifest `digest`; None if it breaks the format."""
        blobs: list[tuple[Digest, int]] = []
        children: list[Digest] = []
        try:
            for line in text.decode("ascii").splitlines():
                name, blank, size = line.partition(" ")
                number = decimal(size)
                if not blank:
                    children.append(Digest(name))
                elif number is not None:
                    blobs.append((Digest(name), number))
                else:
                    return None
        except (UnicodeDecodeError, InvalidDigestError):
            return None
        return cls(digest, tuple(blobs), tuple(children)) if blobs or children else None

    def text(self) -> str:
        """Return it as text: one line `digest size` for each blob, one line `digest` for each child."""
        return "\n".join([*(f"{blob} {size}" for blob, size in self.blobs), *self.children])

    def sightings(self, repository: Repository) -> Iterator[Sighting]:
        """Yield the blobs that `repository` must have, since it has the manifest."""
        for blob, size in self.blobs:
            yield Sighting(blob, repository, size)
