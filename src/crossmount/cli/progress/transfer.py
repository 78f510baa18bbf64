"""Progress of a push, or of the images of a copy: a bar or a line for each blob."""

from collections.abc import Iterator
from dataclasses import field
from typing import Literal

from crossmount import _formatting as text
from crossmount import events
from crossmount._dataclass import dataclass
from crossmount.cli.advice import explain
from crossmount.cli.failures import image_message
from crossmount.cli.progress.display import Bar, Tracker, View
from crossmount.oci import Digest, Repository

_WARNING = "crossmount: warning: "
_WITHOUT_INDEX = "; going on without the index, must-mount flags have no effect"

LARGE_BYTES = 64 * 1000 * 1000
"""A log gets status lines about the upload of a blob of this size or more."""

STATUS_SECONDS = 10.0
"""Minimum seconds between two status lines about the same upload."""

COMMITTING = "waiting for the registry to store it"

BARS_MAX = 30
LINES_BESIDE = 4
"""Lines of the terminal that the bars leave free: the total, the command, the prompt."""

_COLOURS = {"existing": "cyan", "mounted": "green", "uploaded": "yellow", None: "blue"}

_DROPPED = {
    "gone": "it no longer has the layer, removed from the index",
    "unreadable": "not readable with our credentials",
    "unmountable": "it has the layer, and the registry did not mount it",
    "wrong": "its bytes do not match the digest, not used again",
    "cut": "it stopped in the middle of the layer",
    "unreachable": "its registry does not answer, not used again",
}


@dataclass(slots=True)
class BlobState:
    """One blob of a push or a copy.

    Attributes:
        dest: the repository it goes to, if the event named it.
        sent: bytes sent so far.
        upload_started: when its first bytes were sent, in seconds; None before that.
        committing: whether all bytes were sent some seconds ago, and the registry is storing them.
        storing_said: when a line last reported that; None if none did.
        waiting: the event of the wait for another pusher's upload of the same blob.
        ended: its position in the order in which blobs ended; None until it ends.
    """

    digest: Digest
    size: int
    dest: Repository | None = None
    sent: int = 0
    upload_started: float | None = None
    committing: bool = False
    storing_said: float | None = None
    waiting: events.BlobWaiting | None = None
    outcome: events.Outcome | None = None
    source: Repository | None = None
    ended: int | None = None

    @property
    def bytes_done(self) -> int:
        """Bytes that are in the repository or were sent."""
        return self.size if self.outcome else min(self.sent, self.size)

    def speed(self, now: float) -> float:
        """Return bytes a second since the first bytes were sent."""
        if self.upload_started is None or now <= self.upload_started:
            return 0.0
        return self.sent / (now - self.upload_started)

    def apply(self, event: events.BlobProgress | events.BlobCommitting, *, now: float) -> None:
        """Record bytes that were sent, or that all of them are being stored."""
        self.committing = isinstance(event, events.BlobCommitting)
        if isinstance(event, events.BlobProgress):
            self.upload_started = now if self.upload_started is None else self.upload_started
            self.sent = event.sent

    def outcome_text(self) -> str:
        """Return how the blob came into its repository."""
        match self.outcome:
            case "existing":
                return "already there"
            case "mounted":
                return f"mounted from {self.source.name}" if self.source else "mounted, found by the registry"
            case "uploaded":
                return "uploaded"
        return ""

    def status(self, now: float) -> str:
        """Return what happens to the blob at `now` seconds, or how it ended."""
        if self.outcome:
            return self.outcome_text()
        if self.upload_started is None:
            return "waiting" if self.waiting is None else waiting_text(self.waiting)
        if self.committing:
            return COMMITTING
        if self.sent >= self.size:
            return "the registry verifies it"
        return f"uploading, {text.size(int(self.speed(now)))}/s"

    def bar(self, now: float) -> Bar:
        """Return the blob's bar at `now` seconds."""
        return Bar(
            label=f"{text.short(self.digest)}  {text.size(self.size):>7}",
            text=self.status(now),
            done=max(self.size, 1) if self.outcome else self.bytes_done,
            total=self.size,
            ended=self.outcome is not None,
            waiting=self.outcome is None and (self.upload_started is None or self.committing),
            colour=_COLOURS[self.outcome],
        )


def index_warning(cause: str) -> str:
    """Return the warning that the index failed."""
    return f"{_WARNING}{explain(cause)}{_WITHOUT_INDEX}"


def index_failure(line: str) -> str:
    """Return the cause in a line that `index_warning` made, empty for any other line."""
    if line.startswith(_WARNING) and line.endswith(_WITHOUT_INDEX):
        return line.removeprefix(_WARNING).removesuffix(_WITHOUT_INDEX)
    return ""


def waiting_text(event: events.BlobWaiting) -> str:
    """Return a text that names the upload that is waited for."""
    return (
        f"waiting for the upload into {event.into.name}" if event.into else "waiting for another pusher's upload"
    )


@dataclass(slots=True)
class TransferTracker(Tracker):
    """State of a push or a copy.

    Attributes:
        names_dest: lines name each blob's repository, for a transfer to several.
        verb: what is done with an image.
        blobs: by repository and digest. Blobs of images that were copied are removed and counted in `arrived`,
            so that a copy of very many images needs little memory.
        arrived: number of removed blobs, and their bytes.
        images: number of images of a copy or a list that arrived.
        tagged: whether the registry accepted the manifest with the tag.
        index_failed_first: whether the index failed before the first blob's turn.
    """

    names_dest: bool = False
    verb: Literal["copied", "pushed"] = "copied"
    blobs: dict[tuple[Repository | None, Digest], BlobState] = field(default_factory=dict, init=False)
    arrived: tuple[int, int] = field(default=(0, 0), init=False)
    images: int = field(default=0, init=False)
    tagged: bool = field(default=False, init=False)
    index_failed_first: bool = field(default=False, init=False)
    _ended: int = field(default=0, init=False)
    _status_at: dict[tuple[Repository | None, Digest], float] = field(default_factory=dict, init=False)

    def apply(self, event: events.Event, *, now: float) -> None:
        """Update the state by an event that arrived at `now` seconds."""
        match event:
            case events.BlobStarted():
                self._blob(event)
            case events.BlobWaiting():
                self._blob(event).waiting = event
            case events.BlobProgress() | events.BlobCommitting():
                known = self.blobs.get((event.dest, event.digest))
                if known is not None:  # else its image was copied meanwhile, and the blob removed
                    known.apply(event, now=now)
            case events.BlobFinished():
                blob = self._blob(event)
                self._ended += 1
                blob.ended = self._ended
                blob.outcome, blob.source = event.outcome, event.source
            case events.IndexDegraded():
                self.index_failed_first = not self.blobs
            case events.ManifestPushed():
                self.tagged = self.tagged or event.tag is not None
            case events.ImageCopied():
                self.images += 1
                self._remove(event.dest.repository)

    def _blob(self, event: events.BlobStarted | events.BlobWaiting | events.BlobFinished) -> BlobState:
        state = BlobState(event.digest, event.size, event.dest)
        return self.blobs.setdefault((event.dest, event.digest), state)

    def _remove(self, dest: Repository) -> None:
        for key, blob in list(self.blobs.items()):
            if key[0] == dest and blob.outcome is not None:
                self.arrived = self.arrived[0] + 1, self.arrived[1] + blob.size
                del self.blobs[key]

    def log_lines(self, event: events.Event, *, now: float) -> Iterator[str]:
        """Yield a line for a blob that waits, is being stored or ended; now and then one for a large upload."""
        match event:
            case events.BlobFinished(digest=digest, dest=dest):
                blob = self.blobs[dest, digest]
                yield self._blob_line(blob, blob.outcome_text())
            case events.BlobWaiting(digest=digest, dest=dest):
                yield self._blob_line(self.blobs[dest, digest], waiting_text(event))
            case events.BlobCommitting(digest=digest, dest=dest) if (dest, digest) in self.blobs:
                blob = self.blobs[dest, digest]
                if blob.storing_said is None or now - blob.storing_said >= STATUS_SECONDS:
                    blob.storing_said = now  # every attempt sends this event
                    yield self._blob_line(blob, COMMITTING)
            case events.BlobProgress(digest=digest, dest=dest) if (dest, digest) in self.blobs:
                last = self._status_at.setdefault((dest, digest), now)
                blob = self.blobs[dest, digest]
                if blob.size >= LARGE_BYTES and now - last >= STATUS_SECONDS:
                    self._status_at[dest, digest] = now
                    yield self._blob_line(blob, f"uploading, {100 * blob.bytes_done // blob.size} %")

    def _blob_line(self, blob: BlobState, words: str) -> str:
        where = f"  ({blob.dest})" if self.names_dest and blob.dest is not None else ""
        return f"{text.short(blob.digest)} {text.size(blob.size):>9}  {words}{where}"

    def rows(self, room: int) -> list[BlobState]:
        """Choose at most `room` blobs to draw: uploads first, then the last that ended, then those that wait.

        Returns:
            The chosen blobs, in the order in which they began.
        """
        chosen = {id(blob) for blob in sorted(self.blobs.values(), key=_priority)[: max(room, 0)]}
        return [blob for blob in self.blobs.values() if id(blob) in chosen]

    def total(self) -> str:
        """Return the line with the sum of all blobs."""
        blobs = self.blobs.values()
        ended = sum(blob.outcome is not None for blob in blobs)
        size, done = sum(blob.size for blob in blobs), sum(blob.bytes_done for blob in blobs)
        number, arrived = self.arrived
        images = f"{text.count(self.images, 'image')} {self.verb}, " if self.images else ""
        return (
            f"{images}{ended + number} of {text.count(len(blobs) + number, 'blob')}, "
            f"{text.size(done + arrived)} of {text.size(size + arrived)}"
        )

    def view(self, height: int, *, now: float) -> View:
        """Return a bar for each blob that there is room for, and the sum of all."""
        rows = self.rows(min(BARS_MAX, height - LINES_BESIDE))
        hidden = len(self.blobs) - len(rows)
        more = f", {hidden} not shown" if hidden else ""
        footer = f"{self.total()}{more}" if self.blobs else ""
        return View(bars=[blob.bar(now) for blob in rows], footer=footer)

    def _notice(self, event: events.Event, *, verbose: int) -> str | None:
        """Return the line for trouble with the index, the cache or a source, and for an image of a copy."""
        match event:
            case events.IndexDegraded():
                return index_warning(event.cause)
            case events.CacheDegraded():
                return f"{_WARNING}cache {event.cause}: copying without the cache"
            case events.SourceDropped() if verbose or event.reason == "wrong":
                cause = f": {explain(event.cause)}" if event.cause else ""
                source = f"source {event.source} of {text.short(event.layer)}"
                return f"crossmount: {source}: {_DROPPED[event.reason]}{cause}"
            case events.ImageCopied():
                return f"{self.verb} {event.source} to {event.dest}"
            case events.ImageFailed():
                words = image_message(event.error, source=event.source, dest=event.dest, verb=self.verb)
                return f"crossmount: {words}"
        return None


def _priority(blob: BlobState) -> tuple[int, int]:
    if blob.ended is not None:
        return 1, -blob.ended
    return (2 if blob.upload_started is None else 0), 0
