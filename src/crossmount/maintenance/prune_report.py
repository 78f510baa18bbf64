"""What a prune came to."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from crossmount.events import Verdict
from crossmount.oci import Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneReport:
    """A finished prune.

    Attributes:
        dry_run: whether what is gone was left in the index.
        resumed: whether it went on with one that was not finished; then the numbers are of this part alone.
        counts: sources by what the registry said of them; only those that are `gone` were forgotten.
        unreachable: registries that were not asked to the end, and why.
        stranded: layers that may only be mounted, and have no source left: nobody can push them.
        remarks: the first few failures.
        seconds: wall time.
    """

    dry_run: bool
    resumed: bool
    counts: Mapping[Verdict, int]
    unreachable: Mapping[str, str]
    stranded: tuple[Digest, ...]
    remarks: tuple[str, ...]
    seconds: float

    @property
    def complete(self) -> bool:
        """Whether every source was verified that was to be."""
        return not self.counts["failed"] and not self.counts["unreachable"]

    def to_json(self) -> dict[str, Any]:
        """Return the document that `crossmount index prune --json` prints."""
        return {
            "dry_run": self.dry_run,
            "resumed": self.resumed,
            "sources": dict(self.counts),
            "unreachable": dict(self.unreachable),
            "must_mount_without_sources": list(self.stranded),
            "remarks": list(self.remarks),
            "seconds": round(self.seconds, 3),
        }
