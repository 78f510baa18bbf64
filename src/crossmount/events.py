"""One frozen event for each thing that happened; progress bars, logs, metrics and reports observe them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from crossmount.errors import CrossmountError
from crossmount.oci import Digest, Reference, Repository

Outcome = Literal["existing", "mounted", "uploaded"]
"""How a blob came to be in its repository."""

ScanOutcome = Literal["scanned", "gone", "unreadable", "failed"]
"""How a scan is through with a repository."""

Verdict = Literal["held", "gone", "unseen", "denied", "failed", "unreachable"]
"""What a registry said of a source; see `SourceVerified`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobStarted:
    """A blob's turn has come."""

    digest: Digest
    size: int
    dest: Repository | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobWaiting:
    """Another uploads a blob already, into the repository `into` if that is known; it is waited for. Said once."""

    digest: Digest
    size: int
    dest: Repository | None = None
    into: Repository | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobProgress:
    """Bytes of a blob are on their way: `sent` of its size so far."""

    digest: Digest
    sent: int
    dest: Repository | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobFinished:
    """A blob is in its repository."""

    digest: Digest
    size: int
    outcome: Outcome
    source: Repository | None = None
    dest: Repository | None = None


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
    """A source did not serve.

    It is `gone` (forgotten by all), `unreadable` or hidden to us, or its registry does not mount (`unmountable`);
    or it was to be fetched from, and gave `wrong` bytes, or not all of them (`cut`), or its registry does not
    answer at all (`unreachable`, said once).

    Attributes:
        cause: why it was cut.
    """

    layer: Digest
    source: Repository
    reason: Literal["gone", "unreadable", "unmountable", "wrong", "cut", "unreachable"]
    cause: str = ""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheDegraded:
    """The blob cache does not serve; bytes go past it. Said once a copy."""

    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageCopied:
    """An image of a copy is at its destination, tag and all."""

    source: Reference
    dest: Reference


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFailed:
    """An image of a copy will not arrive; the others go on."""

    source: Reference
    dest: Reference
    error: CrossmountError


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceVerified:
    """A source of a layer was verified: only one that is `gone` is forgotten.

    Attributes:
        verdict: `held`; `gone`; `unseen`, which is not there for us and may be hidden from us; `denied` to us;
            `failed` to be told; `unreachable`, and maybe not asked for any more.
        cause: of the last three.
    """

    layer: Digest
    source: Repository
    verdict: Verdict
    cause: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexWalked:
    """A walk through the index is so far: about `keys` keys of `total`, if that is known."""

    keys: int
    total: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LayersMoved:
    """So many layers, with so many sources, were written out or taken in so far."""

    layers: int
    sources: int


Event = (
    BlobStarted
    | BlobWaiting
    | BlobProgress
    | BlobFinished
    | ManifestPushed
    | Retrying
    | SourceDropped
    | IndexDegraded
    | IndexRestored
    | RepositoryScanned
    | CacheDegraded
    | ImageCopied
    | ImageFailed
    | SourceVerified
    | IndexWalked
    | LayersMoved
)
Observer = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Observe nothing."""
    del event
