"""The report of a scan, and the counts of which it is made."""

from dataclasses import field
from typing import Any

from crossmount._dataclass import dataclass
from crossmount.discovery.manifest_walker import WalkResult

REMARKS_MAX = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanReport:
    """A finished scan.

    Attributes:
        registry: the registry, normalised.
        resumed: whether it resumed an unfinished scan.
        listed: repositories that the registry's catalogue, or the caller, named.
        fitting: how many of those match the patterns; all of them without a pattern.
        repositories: repositories that this scan finished.
        before: repositories that the resumed scan had finished, and that were passed over.
        tags: tags that were followed.
        fetched: manifests and indexes that the registry sent.
        known: manifests and indexes that an earlier scan had read, and that were not fetched.
        layers: recorded layers, configs included, counted once for each repository.
        skipped: tags and manifests that are not of an image, or were missing.
        build_caches: fetched indexes that are build caches of BuildKit; their layers are recorded too.
        unreadable: repositories that the account may not read.
        failed: repositories that were not finished.
        denied: how many of the failed ones the account may not read.
        remarks: why repositories failed, then why tags and manifests were skipped; the first few.
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
    build_caches: int = 0

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
            **({"build_caches": self.build_caches} if self.build_caches else {}),
            "layers": self.layers,
            "remarks": list(self.remarks),
            "seconds": round(self.seconds, 3),
        }


@dataclass(slots=True)
class ScanCounts:
    """The counts of a scan in progress; see the attributes of `ScanReport`."""

    listed: int = 0
    fitting: int = 0
    repositories: int = 0
    before: int = 0
    tags: int = 0
    layers: int = 0
    unreadable: int = 0
    failed: int = 0
    denied: int = 0
    remarks: list[str] = field(default_factory=list)
    walked: WalkResult = field(default_factory=WalkResult)

    def remark(self, text: str) -> None:
        """Add a remark, unless there are enough."""
        if len(self.remarks) < REMARKS_MAX:
            self.remarks.append(text)

    def report(self, *, registry: str, resumed: bool, seconds: float) -> ScanReport:
        """Return the report of the finished scan."""
        return ScanReport(
            registry=registry,
            resumed=resumed,
            listed=self.listed,
            fitting=self.fitting,
            repositories=self.repositories,
            before=self.before,
            tags=self.tags,
            fetched=self.walked.fetched,
            known=self.walked.known,
            layers=self.layers,
            skipped=self.walked.skipped,
            unreadable=self.unreadable,
            failed=self.failed,
            denied=self.denied,
            remarks=tuple([*self.remarks, *self.walked.reasons][:REMARKS_MAX]),
            seconds=seconds,
            build_caches=self.walked.build_caches,
        )
