"""One frozen event for each thing that happened; progress bars, logs, metrics and reports observe them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from crossmount.oci import Digest, Repository

Outcome = Literal["existing", "mounted", "uploaded"]
"""How a blob came to be in its repository."""

ScanOutcome = Literal["scanned", "gone", "unreadable", "failed"]
"""How a scan is through with a repository."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobStarted:
    """A blob's turn has come."""

    digest: Digest
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobProgress:
    """Bytes of a blob are on their way: `sent` of its size so far."""

    digest: Digest
    sent: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobFinished:
    """A blob is in its repository."""

    digest: Digest
    size: int
    outcome: Outcome
    source: Repository | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestPushed:
    """The registry accepted a manifest or an index."""

    digest: Digest
    tag: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrying:
    """A request failed for now and is sent again after `wait` seconds."""

    method: str
    host: str
    cause: str
    attempt: int
    wait: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceDropped:
    """A source did not serve: `gone` (forgotten by all), `unreadable` or hidden to us, or not mounted from."""

    layer: Digest
    source: Repository
    reason: Literal["gone", "unreadable", "unmountable"]


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexDegraded:
    """The index does not serve; work goes on without it. Said once, or again after an `IndexRestored`."""

    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexRestored:
    """The index answers again. Said only to who runs for long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositoryScanned:
    """A scan is through with a repository: to its end, or because it is `gone`, `unreadable` by us, or `failed`.

    Attributes:
        tags: how many were followed.
        manifests: how many were fetched, or remembered.
        layers: how many were told to the index.
        cause: why it failed.
    """

    repository: Repository
    outcome: ScanOutcome
    tags: int = 0
    manifests: int = 0
    layers: int = 0
    cause: str = ""


Event = (
    BlobStarted
    | BlobProgress
    | BlobFinished
    | ManifestPushed
    | Retrying
    | SourceDropped
    | IndexDegraded
    | IndexRestored
    | RepositoryScanned
)
Observer = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Observe nothing."""
    del event
