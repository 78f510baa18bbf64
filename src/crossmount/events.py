"""Events: one frozen value for each thing that happens during a push, a copy, a scan or a prune.

An observer is a function that is called with each event. Progress bars, logs, metrics and reports are observers.
If one raises, that is logged, and the work goes on.
"""

import logging
from collections.abc import Callable
from typing import Literal

from crossmount._arguments import check_observer
from crossmount._dataclass import dataclass
from crossmount.errors import CrossmountError
from crossmount.oci import Digest, Reference, Repository

Outcome = Literal["existing", "mounted", "uploaded"]
"""How a blob got into its repository: it existed, it was mounted, or it was uploaded."""

ScanOutcome = Literal["scanned", "gone", "unreadable", "failed"]
"""How the scan of a repository ended. `gone`: the registry does not have it."""

Verdict = Literal["held", "gone", "unseen", "denied", "failed", "unreachable"]
"""Result of verifying a source. `SourceVerified` explains each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobStarted:
    """Work on a blob has started."""

    digest: Digest
    size: int
    dest: Repository | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobWaiting:
    """Another pusher is uploading the blob, and this one waits for it. Sent once for each blob.

    Attributes:
        into: the repository of the other upload; None if unknown.
    """

    digest: Digest
    size: int
    dest: Repository | None = None
    into: Repository | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobProgress:
    """Bytes of a blob were sent: `sent` so far."""

    digest: Digest
    sent: int
    dest: Repository | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobCommitting:
    """All bytes of a blob were sent some seconds ago, and the registry is still storing it."""

    digest: Digest
    size: int
    dest: Repository | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobFinished:
    """A blob is in its repository.

    Attributes:
        source: the repository it was mounted from; None if it was not mounted or the registry chose the source.
    """

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
    """A request failed and is sent again after `wait` seconds. `attempt` is the number of the one that failed.

    Attributes:
        host: the host, with its port unless that is the scheme's default.
    """

    method: str
    host: str
    cause: str
    attempt: int
    wait: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceDropped:
    """A source could not be mounted or fetched from.

    Attributes:
        reason: `gone`: it no longer has the layer, and the index removed it. `unreadable`: it may be hidden from
            these credentials. `unmountable`: it has the layer, and the registry did not mount it. In a copy also
            `wrong`: its bytes do not match the digest; `cut`: the download broke off; `unreachable`: its registry
            does not answer (sent once).
        cause: why the download broke off.
    """

    layer: Digest
    source: Repository
    reason: Literal["gone", "unreadable", "unmountable", "wrong", "cut", "unreachable"]
    cause: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexDegraded:
    """The index failed, and work continues without it. Sent once, and again after an `IndexRestored`."""

    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexRestored:
    """The index answers again. Only long-running processes send this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositoryScanned:
    """The scan of a repository ended.

    Attributes:
        tags: number of tags that were read.
        manifests: number of manifests that were fetched, or known from an earlier scan.
        layers: number of layers that were recorded in the index.
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
    """The blob cache failed, and the copy continues without it. Sent once a copy."""

    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageCopied:
    """An image of a copy, or of a list of pushes, is at its destination. For a push `source` is text."""

    source: Reference | str
    dest: Reference


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFailed:
    """An image could not be copied or pushed. The others continue. For a push `source` is text."""

    source: Reference | str
    dest: Reference
    error: CrossmountError


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceVerified:
    """A source of a layer was verified.

    Attributes:
        verdict: `held`: the repository has the layer. `gone`: it does not, and the source is removed. `unseen`:
            the registry answers 404, which may hide the layer from these credentials. `denied`: not readable.
            `failed`: the request failed. `unreachable`: the registry does not answer, and may not be asked again.
        cause: why it is denied, failed or unreachable.
    """

    layer: Digest
    source: Repository
    verdict: Verdict
    cause: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexWalked:
    """About `keys` keys of the index were read, of `total`; None if that is unknown."""

    keys: int
    total: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LayersMoved:
    """Numbers of layers and sources that were exported or imported so far."""

    layers: int
    sources: int


Event = (
    BlobStarted
    | BlobWaiting
    | BlobProgress
    | BlobCommitting
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


_log = logging.getLogger(__name__)


class NeverRaising:
    """An observer whose errors are logged, since what it observes must not fail for them."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._failed = False

    def __call__(self, event: Event) -> None:
        """Call the observer. Its first error is a warning with a traceback, the others are for debugging."""
        try:
            self._observer(event)
        except Exception as error:  # noqa: BLE001 it may be any
            level = logging.DEBUG if self._failed else logging.WARNING
            self._failed = True
            name = type(event).__name__
            _log.log(level, "an observer failed at %s, going on: %s", name, type(error).__name__, exc_info=error)


def never_raising(observer: Observer) -> Observer:
    """Return an observer that never raises.

    Raises:
        InvalidInputError: it cannot be called.
    """
    check_observer(observer)
    return observer if observer is ignore or isinstance(observer, NeverRaising) else NeverRaising(observer)


def both(one: Observer, other: Observer) -> Observer:
    """Return an observer that calls two."""

    def call_both(event: Event) -> None:
        one(event)
        other(event)

    return call_both


def ignore(event: Event) -> None:
    """Do nothing: the default observer."""
    del event
