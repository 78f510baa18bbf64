"""The reports of a push and of a copy, blob by blob."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, ClassVar, Literal

from crossmount._dataclass import dataclass
from crossmount.errors import CrossmountError
from crossmount.events import Outcome
from crossmount.index.protocol import Sighting
from crossmount.oci import Digest, Reference, Repository
from crossmount.savings.tally import Tally
from crossmount.transfer.fetch import FetchedBlob

FROM_CACHE = "cache"
"""The `fetched_from` of a blob whose bytes the cache had."""

IndexState = Literal["ok", "degraded", "off"]
"""Whether the index answered every call, failed some, or was not used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobReport:
    """How one blob got into its repository.

    Attributes:
        size: bytes.
        source: the repository it was mounted from; None without a mount, or if the registry chose the source.
        attempts: mount requests that named a source.
        waited: seconds of waiting for another pusher's upload of it.
        fetched_from: the repository that sent its bytes, or `cache`; None if they were at hand, or not needed.
        fetched: bytes that registries sent for it; more than its size if some were wrong or lost.
        elsewhere: of an uploaded blob, the other registries that have it, as the index knows.
    """

    digest: Digest
    size: int
    outcome: Outcome
    source: Repository | None = None
    attempts: int = 0
    waited: float = 0.0
    fetched_from: str | None = None
    fetched: int = 0
    elsewhere: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return its part of the document, with `waited` and `fetched` only if they are not 0."""
        return {
            "digest": str(self.digest),
            "size": self.size,
            "outcome": self.outcome,
            "source": None if self.source is None else str(self.source),
            "attempts": self.attempts,
            **({"waited": round(self.waited, 3)} if self.waited else {}),
            **({"fetched_from": self.fetched_from, "fetched": self.fetched} if self.fetched_from else {}),
        }

    @property
    def tally(self) -> Tally:
        """The blob, as the accounts count it."""
        fate = "waited" if self.waited and self.outcome != "uploaded" else self.outcome
        return Tally(**{f"blobs_{fate}": 1, f"bytes_{fate}": self.size}, bytes_fetched=self.fetched)


@dataclass(frozen=True, slots=True, kw_only=True)
class PushReport:
    """A finished push.

    Attributes:
        reference: the pushed image, with its tag if it has one.
        digest: the digest of the manifest or index that the reference names.
        blobs: each blob once, in the order of the manifests.
        index_reason: why the index failed; None unless `index` is `degraded`.
        seconds: wall time.
        build_cache: whether it is a build cache of BuildKit, an index of blobs.
        platforms: the platforms that were chosen, if `digest` is of a new index with those alone.
        tags: further tags of it.
    """

    reference: Reference
    digest: Digest
    blobs: tuple[BlobReport, ...]
    index: IndexState
    seconds: float
    build_cache: bool = False
    platforms: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    index_reason: str | None = None

    def count(self, outcome: Outcome) -> int:
        """Return how many blobs had this outcome."""
        return sum(1 for _ in self._of(outcome))

    def bytes(self, outcome: Outcome) -> int:
        """Return how many bytes the blobs with this outcome have."""
        return sum(blob.size for blob in self._of(outcome))

    @property
    def tally(self) -> Tally:
        """The sum of the blobs, as the accounts count them: what was saved, and what was not."""
        return Tally.total(blob.tally for blob in self.blobs)

    def to_json(self) -> dict[str, Any]:
        """Return the document that `crossmount push --json` prints."""
        return {
            "reference": str(self.reference),
            "digest": str(self.digest),
            **({"tags": list(self.tags)} if self.tags else {}),
            **({"platforms": list(self.platforms)} if self.platforms else {}),
            **({"build_cache": True} if self.build_cache else {}),
            "blobs": [blob.to_json() for blob in self.blobs],
            "bytes": {
                "existing": self.bytes("existing"),
                "mounted": self.bytes("mounted"),
                "uploaded": self.bytes("uploaded"),
            },
            "saved": self.tally.saved_to_json(),
            "index": self.index,
            **({"index_reason": self.index_reason} if self.index_reason else {}),
            "seconds": round(self.seconds, 3),
        }

    def _of(self, outcome: Outcome) -> Iterable[BlobReport]:
        return (blob for blob in self.blobs if blob.outcome == outcome)


_OUTCOMES: tuple[Outcome, ...] = ("existing", "mounted", "uploaded")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageCopy(PushReport):
    """One image that was copied; `reference` is its destination.

    Attributes:
        source: the image it was copied from.
        referrers: the copied manifests that refer to it: signatures, SBOMs. `blobs` includes their blobs.
    """

    source: Reference
    referrers: tuple[Digest, ...] = ()

    @property
    def fetched(self) -> int:
        """Bytes that registries sent for it."""
        return sum(blob.fetched for blob in self.blobs)

    def to_json(self) -> dict[str, Any]:
        """Return its part of the document: that of a push, and where the bytes were fetched from."""
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
    """One image that was not copied or pushed.

    Attributes:
        source: the image; for a push the text that names it.
        reference: its destination.
        error: why it is not there.
    """

    source: Reference | str
    reference: Reference
    error: CrossmountError

    def to_json(self) -> dict[str, Any]:
        """Return its part of the document."""
        return {"source": str(self.source), "reference": str(self.reference), "error": str(self.error)}

    def __str__(self) -> str:
        return f"{self.source} to {self.reference}: {self.error}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PushListReport:
    """Finished pushes of a list.

    Attributes:
        images: all images in the order of the list, including those that failed.
        index_reason: why the index failed; None unless `index` is `degraded`.
        seconds: wall time.
    """

    verb: ClassVar[str] = "pushed"

    images: tuple[PushReport | ImageFailure, ...]
    index: IndexState
    seconds: float
    index_reason: str | None = None

    @property
    def done(self) -> tuple[PushReport, ...]:
        """The images that are at their destinations."""
        return tuple(image for image in self.images if isinstance(image, PushReport))

    @property
    def failures(self) -> tuple[ImageFailure, ...]:
        """The images that failed."""
        return tuple(image for image in self.images if isinstance(image, ImageFailure))

    def blobs(self, outcome: Outcome) -> Iterable[BlobReport]:
        """Yield the blobs with this outcome, a blob of several images several times."""
        return (blob for image in self.done for blob in image.blobs if blob.outcome == outcome)

    def count(self, outcome: Outcome) -> int:
        """Return how many blobs had this outcome."""
        return sum(1 for _ in self.blobs(outcome))

    def bytes(self, outcome: Outcome) -> int:
        """Return how many bytes the blobs with this outcome have."""
        return sum(blob.size for blob in self.blobs(outcome))

    @property
    def tally(self) -> Tally:
        """The sum of the blobs of all images, as the accounts count them."""
        return Tally.total(image.tally for image in self.done)

    def to_json(self) -> dict[str, Any]:
        """Return the document that `crossmount push --from FILE --json` prints."""
        return {
            "images": [image.to_json() for image in self.images],
            "bytes": {outcome: self.bytes(outcome) for outcome in _OUTCOMES},
            "saved": self.tally.saved_to_json(),
            "index": self.index,
            **({"index_reason": self.index_reason} if self.index_reason else {}),
            "seconds": round(self.seconds, 3),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyReport(PushListReport):
    """A finished copy.

    Attributes:
        images: all images in the order of the jobs, including those that failed.
        index_reason: why the index failed; None unless `index` is `degraded`.
        seconds: wall time.
    """

    verb: ClassVar[str] = "copied"

    images: tuple[ImageCopy | ImageFailure, ...]

    @property
    def copied(self) -> tuple[ImageCopy, ...]:
        """The images that were copied."""
        return tuple(image for image in self.images if isinstance(image, ImageCopy))

    @property
    def fetched(self) -> int:
        """Bytes that registries sent."""
        return sum(image.fetched for image in self.copied)

    def to_json(self) -> dict[str, Any]:
        """Return the document that `crossmount copy --json` prints."""
        document = PushListReport.to_json(self)
        document["bytes"]["fetched"] = self.fetched
        return document


def with_origins(reports: Iterable[BlobReport], fetched: Iterable[FetchedBlob]) -> Iterable[BlobReport]:
    """Yield the reports, each with where the bytes of an uploaded blob were fetched from."""
    by_digest = {blob.descriptor.digest: blob for blob in fetched}
    for report in reports:
        blob = by_digest.get(report.digest)
        if blob is None or report.outcome != "uploaded":
            yield report
            continue
        senders = [str(repository) for repository in blob.fetched]
        source = senders[-1] if senders else FROM_CACHE
        yield replace(report, fetched_from=source, fetched=sum(blob.fetched.values()))


def proven(blobs: Iterable[FetchedBlob]) -> list[Sighting]:
    """Return the sources that fetching proved: repositories that sent a whole blob alone."""
    return [
        Sighting(blob.descriptor.digest, repository, size)
        for blob in blobs
        if len(blob.fetched) == 1
        for repository, size in blob.fetched.items()
        if size == blob.descriptor.size
    ]
