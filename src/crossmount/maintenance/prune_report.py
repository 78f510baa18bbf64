"""The report of a prune, and what it has found so far."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from crossmount import events
from crossmount._parsing import one_line
from crossmount.oci import Digest, Repository

_REMARKS_MAX = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneReport:
    """A finished prune.

    Attributes:
        dry_run: whether the missing sources were left in the index.
        resumed: whether it resumed an unfinished prune; then the numbers are of this part only.
        counts: sources by the registry's verdict; only those that are `gone` were removed.
        unreachable: registries that were not asked to the end, and why.
        stranded: must-mount layers that have no source left, so that nobody can push them.
        remarks: the first few failures.
        seconds: wall time.
    """

    dry_run: bool
    resumed: bool
    counts: Mapping[events.Verdict, int]
    unreachable: Mapping[str, str]
    stranded: tuple[Digest, ...]
    remarks: tuple[str, ...]
    seconds: float

    @property
    def complete(self) -> bool:
        """Whether every selected source was verified."""
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


@dataclass(slots=True)
class VerdictCounts:
    """The verdicts so far, each of which the observer receives as a `SourceVerified`."""

    observer: events.Observer
    remarks: list[str] = field(default_factory=list)
    _counts: Counter[events.Verdict] = field(default_factory=Counter)

    def add(self, layer: Digest, source: Repository, verdict: events.Verdict, cause: str = "") -> None:
        """Count a verdict, and notify the observer."""
        self._counts[verdict] += 1
        if verdict == "failed" and len(self.remarks) < _REMARKS_MAX:
            self.remarks.append(one_line(cause))
        self.observer(events.SourceVerified(layer=layer, source=source, verdict=verdict, cause=cause))

    def all(self) -> dict[events.Verdict, int]:
        """Return the number of sources for every verdict there is."""
        return {verdict: self._counts[verdict] for verdict in get_args(events.Verdict)}
