"""What a push did, blob by blob."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from crossmount.events import Outcome
from crossmount.oci import Digest, Reference, Repository

IndexState = Literal["ok", "degraded", "off"]
"""Whether the index served: always, not always, or was not asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobReport:
    """How one blob came to be in its repository.

    Attributes:
        size: bytes.
        source: where it was mounted from; None if it wasn't, or if the registry found it by itself.
        attempts: mount requests that named a source.
        waited: seconds that another's upload of it was waited for.
        fetched_from: in a copy, the repository that gave its bytes, or `cache`; None if they were not needed.
        fetched: in a copy, bytes that registries gave for it; more than its size if some were wrong or lost.
    """

    digest: Digest
    size: int
    outcome: Outcome
    source: Repository | None = None
    attempts: int = 0
    waited: float = 0.0
    fetched_from: str | None = None
    fetched: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return its part of the document; `waited` is there if it waited."""
        return {
            "digest": str(self.digest),
            "size": self.size,
            "outcome": self.outcome,
            "source": None if self.source is None else str(self.source),
            "attempts": self.attempts,
            **({"waited": round(self.waited, 3)} if self.waited else {}),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class PushReport:
    """A finished push.

    Attributes:
        reference: what was pushed, with its tag if it has one.
        digest: the digest of the manifest or index that the reference names.
        blobs: each blob once, in the order of the manifests.
        seconds: wall time.
    """

    reference: Reference
    digest: Digest
    blobs: tuple[BlobReport, ...]
    index: IndexState
    seconds: float

    def count(self, outcome: Outcome) -> int:
        """Return how many blobs ended like this."""
        return sum(1 for _ in self._of(outcome))

    def bytes(self, outcome: Outcome) -> int:
        """Return how many bytes the blobs that ended like this have."""
        return sum(blob.size for blob in self._of(outcome))

    def to_json(self) -> dict[str, Any]:
        """Return the document that `crossmount push --json` prints."""
        return {
            "reference": str(self.reference),
            "digest": str(self.digest),
            "blobs": [blob.to_json() for blob in self.blobs],
            "bytes": {
                "existing": self.bytes("existing"),
                "mounted": self.bytes("mounted"),
                "uploaded": self.bytes("uploaded"),
            },
            "index": self.index,
            "seconds": round(self.seconds, 3),
        }

    def _of(self, outcome: Outcome) -> Iterable[BlobReport]:
        return (blob for blob in self.blobs if blob.outcome == outcome)
