"""What a scan came to."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanReport:
    """A finished scan.

    Attributes:
        registry: the registry, normalised.
        resumed: whether it went on where an earlier one had ended.
        listed: how many repositories were named, by the registry's catalogue or by us.
        fitting: how many of those fit the patterns, or were wanted without one.
        repositories: how many were scanned now.
        before: how many the earlier scan was done with, and were passed over.
        tags: how many tags were followed.
        fetched: manifests and indexes that the registry sent.
        known: manifests and indexes that were remembered from earlier, and not fetched.
        layers: what the index was told: layers in repositories, configs included.
        skipped: tags and manifests that are no image, or were gone.
        unreadable: repositories that we may not read.
        failed: repositories that were not scanned to their end.
        denied: how many of those that failed the registry did not let us read.
        remarks: why something failed or was skipped, for the first few; failures stand first.
        seconds: wall time.
    """

    registry: str
    resumed: bool
    listed: int
    fitting: int
    repositories: int
    before: int
    tags: int
    fetched: int
    known: int
    layers: int
    skipped: int
    unreadable: int
    failed: int
    denied: int
    remarks: tuple[str, ...]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return the document that `crossmount scan --json` prints."""
        return {
            "registry": self.registry,
            "resumed": self.resumed,
            "repositories": {
                "scanned": self.repositories,
                "before": self.before,
                "unreadable": self.unreadable,
                "failed": self.failed,
            },
            "tags": self.tags,
            "manifests": {"fetched": self.fetched, "known": self.known, "skipped": self.skipped},
            "layers": self.layers,
            "remarks": list(self.remarks),
            "seconds": round(self.seconds, 3),
        }
