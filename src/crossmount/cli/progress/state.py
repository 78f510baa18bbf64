"""What is known of a push, or a copy, while it runs, made from its events. Pure: the clock comes in."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from crossmount import events
from crossmount.cli import text
from crossmount.cli.failures import words_of_image
from crossmount.cli.progress.retries import Retries
from crossmount.oci import Digest, Repository

INDEX_WARNING = (
    "crossmount: warning: the index does not serve, going on without it, must-mount flags do not count meanwhile: "
)
"""What the cause follows."""


@dataclass(slots=True)
class BlobState:
    """One blob on its way.

    Attributes:
        sent: bytes sent so far.
        waiting: what was said of another's upload that it waits for, or did.
        uploading_since: when its first bytes went; None before that.
        ended: its place in the order in which blobs ended; None while it is on its way.
        dest: where it goes, if the event said so.
    """

    digest: Digest
    size: int
    dest: Repository | None = None
    sent: int = 0
    uploading_since: float | None = None
    waiting: events.BlobWaiting | None = None
    outcome: events.Outcome | None = None
    source: Repository | None = None
    ended: int | None = None

    @property
    def there(self) -> int:
        """Bytes that need not be waited for any more."""
        return self.size if self.outcome else min(self.sent, self.size)

    def speed(self, now: float) -> float:
        """Return bytes a second since its first bytes went."""
        if self.uploading_since is None or now <= self.uploading_since:
            return 0.0
        return self.sent / (now - self.uploading_since)


@dataclass(slots=True)
class PushState:
    """A push, or the images of a copy, as its observer sees it.

    Attributes:
        blobs: by where they go; those of images that have arrived are counted in `past`, and not kept.
        past: how many blobs, and bytes, of images that have arrived.
        tagged: whether the registry accepted the manifest that has the tag.
        never_served: whether the index failed at once: at the first question, before any blob's turn.
        retries: what was told of requests that are sent again.
    """

    blobs: dict[tuple[Repository | None, Digest], BlobState] = field(default_factory=dict)
    past: tuple[int, int] = (0, 0)
    images: int = 0
    _ended: int = 0
    tagged: bool = False
    never_served: bool = False
    retries: Retries = field(default_factory=Retries)

    def apply(self, event: events.Event, *, now: float) -> BlobState | None:
        """Take an event in, at `now` seconds, and return the blob it is about, if it is about one."""
        match event:
            case events.BlobStarted():
                return self._blob(event)
            case events.BlobWaiting():
                blob = self._blob(event)
                blob.waiting = event
                return blob
            case events.BlobProgress():
                known = self.blobs.get((event.dest, event.digest))
                if known is not None:  # else another image of a copy has brought it there meanwhile
                    known.uploading_since = now if known.uploading_since is None else known.uploading_since
                    known.sent = event.sent
                return known
            case events.BlobFinished():
                blob = self._blob(event)
                self._ended += 1
                blob.ended = self._ended
                blob.outcome, blob.source = event.outcome, event.source
                return blob
            case events.IndexDegraded():
                self.never_served = not self.blobs
            case events.ManifestPushed():
                self.tagged = self.tagged or event.tag is not None
            case events.ImageCopied():
                self.images += 1
                self._forget(event.dest.repository)
        return None

    def _blob(self, event: events.BlobStarted | events.BlobWaiting | events.BlobFinished) -> BlobState:
        state = BlobState(event.digest, event.size, event.dest)
        return self.blobs.setdefault((event.dest, event.digest), state)

    def _forget(self, dest: Repository) -> None:
        """Count what has arrived in a repository, and keep it no more: a copy may be of very many images."""
        for key, blob in list(self.blobs.items()):
            if key[0] == dest and blob.outcome is not None:
                self.past = self.past[0] + 1, self.past[1] + blob.size
                del self.blobs[key]

    def rows(self, room: int) -> tuple[list[BlobState], int]:
        """Choose what to show on `room` lines: uploads, then what ended, the last first, then what waits.

        Returns:
            The chosen ones in the order in which they began, and how many were left out.
        """
        kept = {id(blob) for blob in sorted(self.blobs.values(), key=_interest)[: max(room, 0)]}
        return [blob for blob in self.blobs.values() if id(blob) in kept], len(self.blobs) - len(kept)

    def total(self) -> str:
        """Return the line that sums everything up."""
        blobs = self.blobs.values()
        ended = sum(blob.outcome is not None for blob in blobs)
        size, there = sum(blob.size for blob in blobs), sum(blob.there for blob in blobs)
        (number, arrived), images = self.past, ""
        if self.images:
            images = f"{text.count(self.images, 'image')} copied, "
        return (
            f"{images}{ended + number} of {text.count(len(blobs) + number, 'blob')}, "
            f"{text.size(there + arrived)} of {text.size(size + arrived)}"
        )

    def notice(self, event: events.Event, *, now: float, verbose: int) -> str | None:
        """Return what to say of an event that is about no blob: trouble, retries, images of a copy."""
        match event:
            case events.Retrying():
                return self.retries.notice(event, now=now, verbose=verbose)
            case events.SourceDropped() if not verbose and event.reason != "wrong":
                return None
        return _words(event)


def _words(event: events.Event) -> str | None:
    words = None
    match event:
        case events.IndexDegraded():
            words = f"{INDEX_WARNING}{event.cause}"
        case events.CacheDegraded():
            words = f"crossmount: warning: the cache does not serve, going on past it: {event.cause}"
        case events.SourceDropped():
            words = f"crossmount: source {event.source} of {text.short(event.layer)}: {_DROPPED[event.reason]}"
            words += f": {event.cause}" if event.cause else ""
        case events.ImageCopied():
            words = f"copied {event.source} to {event.dest}"
        case events.ImageFailed():
            words = f"crossmount: not copied: {event.source} to {event.dest}: {words_of_image(event.error)}"
    return words


_DROPPED = {
    "gone": "it lacks the layer, forgotten for everybody",
    "unreadable": "we may not read it",
    "unmountable": "it has the layer, and the registry did not mount it",
    "wrong": "it gave bytes that do not have the digest, left alone",
    "cut": "it did not give the layer to its end",
    "unreachable": "its registry does not answer, left alone",
}


def _interest(blob: BlobState) -> tuple[int, int]:
    if blob.ended is not None:
        return 1, -blob.ended
    return (2 if blob.uploading_since is None else 0), 0


def outcome(blob: BlobState) -> str:
    """Return how a blob ended, in words."""
    match blob.outcome:
        case "existing":
            return "already there"
        case "mounted":
            return f"mounted from {blob.source.name}" if blob.source else "mounted, found by the registry"
        case "uploaded":
            return "uploaded"
    return ""


def waiting_for(event: events.BlobWaiting) -> str:
    """Say whose upload is waited for."""
    return f"waiting for the upload into {event.into.name}" if event.into else "waiting for another's upload"


def doing(blob: BlobState, now: float) -> str:
    """Return what becomes, or became, of a blob."""
    if blob.outcome:
        return outcome(blob)
    if blob.uploading_since is None:
        return "waiting" if blob.waiting is None else waiting_for(blob.waiting)
    if blob.sent >= blob.size:
        return "the registry checks it"
    return f"uploading, {text.size(int(blob.speed(now)))}/s"


def summary(groups: Iterable[tuple[str, int, int]]) -> list[str]:
    """Return lines that align (what, blobs, bytes)."""
    cells = [(what, text.count(blobs, "blob"), text.size(size)) for what, blobs, size in groups]
    return [f"{what:<14} {blobs:>9} {size:>9}" for what, blobs, size in cells]
