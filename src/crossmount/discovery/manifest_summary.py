"""What a manifest names, and no more: small enough to be remembered for each manifest of a registry. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from crossmount._parsing import decimal
from crossmount.errors import InvalidDigestError
from crossmount.index.protocol import Sighting
from crossmount.oci import Digest, Manifest, Repository
from crossmount.oci.image import is_foreign

TEXT_MAX = 64 * 1024
"""A longer text is not remembered: it is of more than 700 blobs."""


@dataclass(frozen=True, slots=True)
class ManifestSummary:
    """The blobs and the manifests that one manifest or index names.

    Attributes:
        digest: the manifest's own.
        blobs: config and layers with their sizes in bytes, each once; foreign layers, which a registry need not
            hold, are left out.
        children: the manifests of an index.
    """

    digest: Digest
    blobs: tuple[tuple[Digest, int], ...] = ()
    children: tuple[Digest, ...] = ()

    @classmethod
    def of(cls, manifest: Manifest) -> Self:
        """Return what `manifest` names."""
        return cls(
            manifest.descriptor.digest,
            tuple((blob.digest, blob.size) for blob in manifest.blobs if not is_foreign(blob)),
            tuple(dict.fromkeys(child.digest for child in manifest.children)),
        )

    @classmethod
    def read(cls, digest: Digest, text: bytes) -> Self | None:
        """Read what `text` wrote of the manifest `digest`; None if it is anything else."""
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
        """Write it: a line for each blob, `digest size`, and for each child, `digest`."""
        return "\n".join([*(f"{blob} {size}" for blob, size in self.blobs), *self.children])

    def sightings(self, repository: Repository) -> Iterator[Sighting]:
        """Yield what a registry that holds the manifest in `repository` holds there."""
        for blob, size in self.blobs:
            yield Sighting(blob, repository, size)
