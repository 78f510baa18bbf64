"""What a copy did, image by image."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from crossmount.errors import CrossmountError
from crossmount.events import Outcome
from crossmount.oci import Digest, Reference
from crossmount.transfer.report import BlobReport, IndexState, PushReport

_OUTCOMES: tuple[Outcome, ...] = ("existing", "mounted", "uploaded")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageCopy(PushReport):
    """One image that was copied; `reference` is where it is now.

    Attributes:
        source: where it was copied from.
        referrers: manifests that refer to it and came along: signatures, SBOMs. Their blobs are among `blobs`.
    """

    source: Reference
    referrers: tuple[Digest, ...] = ()

    @property
    def fetched(self) -> int:
        """Bytes that registries gave for it."""
        return sum(blob.fetched for blob in self.blobs)

    def to_json(self) -> dict[str, Any]:
        """Return its part of the document: what a push prints, and where the bytes came from."""
        document = PushReport.to_json(self)
        document["bytes"]["fetched"] = self.fetched
        return {
            "source": str(self.source),
            **document,
            "blobs": [
                {**blob.to_json(), "fetched_from": blob.fetched_from, "fetched": blob.fetched}
                for blob in self.blobs
            ],
            "referrers": list(map(str, self.referrers)),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFailure:
    """One image that did not arrive.

    Attributes:
        reference: where it was to go.
        error: why it did not.
    """

    source: Reference
    reference: Reference
    error: CrossmountError

    def to_json(self) -> dict[str, Any]:
        """Return its part of the document."""
        return {"source": str(self.source), "reference": str(self.reference), "error": str(self.error)}


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyReport:
    """A finished copy.

    Attributes:
        images: all images in the order in which they were asked for, those that failed too.
        seconds: wall time.
    """

    images: tuple[ImageCopy | ImageFailure, ...]
    index: IndexState
    seconds: float

    @property
    def copied(self) -> tuple[ImageCopy, ...]:
        """The images that arrived."""
        return tuple(image for image in self.images if isinstance(image, ImageCopy))

    @property
    def failures(self) -> tuple[ImageFailure, ...]:
        """The images that did not."""
        return tuple(image for image in self.images if isinstance(image, ImageFailure))

    @property
    def fetched(self) -> int:
        """Bytes that registries gave."""
        return sum(image.fetched for image in self.copied)

    def blobs(self, outcome: Outcome) -> Iterable[BlobReport]:
        """Yield the blobs that ended like this, each as often as it did."""
        return (blob for image in self.copied for blob in image.blobs if blob.outcome == outcome)

    def count(self, outcome: Outcome) -> int:
        """Return how many blobs ended like this."""
        return sum(1 for _ in self.blobs(outcome))

    def bytes(self, outcome: Outcome) -> int:
        """Return how many bytes the blobs that ended like this have."""
        return sum(blob.size for blob in self.blobs(outcome))

    def to_json(self) -> dict[str, Any]:
        """Return the document that `crossmount copy --json` prints."""
        return {
            "images": [image.to_json() for image in self.images],
            "bytes": {**{outcome: self.bytes(outcome) for outcome in _OUTCOMES}, "fetched": self.fetched},
            "index": self.index,
            "seconds": round(self.seconds, 3),
        }
