"""The blobs that each client will upload next: it asked for them, and was told that they are not there.

A client that asks first names a blob before it sends a byte, but its upload session names none before the end. Of
the blobs that a client may be sending, all leases are taken; then its bytes can go on to the registry while they
arrive (`early_upload`). If there are none, too many, or one that may be mounted later, nothing is known.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import field

from crossmount._dataclass import dataclass
from crossmount.fleet import UploadTurn
from crossmount.oci import Digest, Repository
from crossmount.proxy.uploads.attempts import MountAttempt
from crossmount.proxy.uploads.leases import give_up

EXPECTED_SECONDS = 60.0
"""How long after its question a client is expected to begin the upload."""

EXPECTED_MAX = 16
"""The most blobs that a client may be sending; more are not leased. skopeo sends 6 at once, crane 4."""

_PUSHES_MAX = 1024

_NEVER_COMPRESS = ("go-containerregistry/",)
"""Parts of the User-Agent of clients that send a blob in chunks, and always the blob that they asked for."""


def sends_as_named(content_length: int | None, user_agent: str | None) -> bool:
    """Return whether an upload has the bytes of a blob that its client asked for.

    skopeo, podman, buildah and docker ask for a layer, and then may compress it while they send it: then it has
    another digest, which may be mountable, and a length that they do not know. crane never does. Where this says
    no, `Push.asks_again` may still say yes.
    """
    return content_length is not None or any(part in (user_agent or "") for part in _NEVER_COMPRESS)


@dataclass(slots=True, eq=False)
class Push:
    """What one client is expected to upload into one repository.

    Attributes:
        asked: the blobs that it was told are not there, and when.
        asked_again: those of them that it has asked for twice.
        leased: the turns to upload them.
        streams: the uploads that go on to the registry: the digest of each, if it was named at its start, by the
            hash of its first MiB. Two with the same are of two clients that look like one: the second waits.
        lock: locked while leases are taken.
    """

    asked: dict[Digest, tuple[MountAttempt, float]] = field(default_factory=dict)
    asked_again: set[Digest] = field(default_factory=set)
    leased: dict[Digest, UploadTurn] = field(default_factory=dict)
    streams: dict[bytes, Digest | None] = field(default_factory=dict)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def expire(self, now: float) -> None:
        """Forget the blobs that were not sent in time."""
        late = [digest for digest, (_, asked) in self.asked.items() if now - asked >= EXPECTED_SECONDS]
        for digest in late:
            if digest not in self.leased:
                self.drop(digest)

    def note_missing(self, attempt: MountAttempt, now: float) -> None:
        """Note that the client was told that a blob is not there."""
        if attempt.digest in self.asked:
            self.asked_again.add(attempt.digest)
        if len(self.asked) <= EXPECTED_MAX:  # one more is too many, and says so
            self.asked[attempt.digest] = attempt, now

    def drop(self, digest: Digest) -> None:
        """Stop expecting a blob."""
        self.asked.pop(digest, None)
        self.asked_again.discard(digest)

    @property
    def asks_again(self) -> bool:
        """Whether the client sends each blob as it asked for it.

        skopeo, podman and buildah ask again for a blob right before they send its bytes as they are, and do not if
        they compress them.
        """
        return bool(self.asked) and self.asked_again.issuperset(self.asked)

    def outstanding(self) -> dict[Digest, MountAttempt]:
        """Return the blobs that the client may be sending; empty if that is not certain enough.

        A blob that must be mounted, or that may be once its upload has begun, is not sent early; and its session
        looks like any other.
        """
        attempts = {digest: attempt for digest, (attempt, _) in self.asked.items()}
        if len(attempts) > EXPECTED_MAX:
            return {}
        if any(attempt.refused or attempt.deleted for attempt in attempts.values()):
            return {}
        return {digest: attempt for digest, attempt in attempts.items() if not attempt.mounted_later}

    def expects(self, digest: Digest) -> bool:
        """Return whether the client has asked for a blob, and was not given it since."""
        return digest in self.asked and not self.asked[digest][0].mounted_later

    @property
    def is_wanted(self) -> bool:
        """Whether there is still something to upload: not everything was mounted after its question."""
        return not self.asked or any(not attempt.mounted_later for attempt, _ in self.asked.values())

    def count(self, prefix: bytes, sent: int) -> None:
        """Note that bytes of an upload went on to the registry: they are progress of one blob.

        If it is not known which, each blob that it may be gets an equal share. So the leases show together what
        was sent, and not more: whoever asks for many blobs and sends one keeps nobody waiting by that.
        """
        named = self.streams.get(prefix)
        others = {digest for digest in self.streams.values() if digest is not None}
        wanted = [named] if named is not None else [digest for digest in self.leased if digest not in others]
        for digest in wanted:
            turn = self.leased.get(digest)
            if turn is not None and turn.progress is not None:
                turn.progress.reach(turn.progress.sent + sent // len(wanted))


class ExpectedBlobs:
    """The expected blobs of all clients, bounded.

    Args:
        clock: seconds, from any start.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._pushes: OrderedDict[tuple[str, str, Repository], Push] = OrderedDict()

    def note_missing(self, client: tuple[str, str], attempt: MountAttempt) -> None:
        """Note that a client was told that a blob is not in its repository.

        Args:
            client: the caller's key and address.
            attempt: the attempt to mount the blob.
        """
        push = self._pushes.setdefault((*client, attempt.dest), Push())
        self._pushes.move_to_end((*client, attempt.dest))
        push.expire(self._clock())
        push.note_missing(attempt, self._clock())
        while len(self._pushes) > _PUSHES_MAX:
            oldest, first = next(iter(self._pushes.items()))
            if first.streams:
                break
            del self._pushes[oldest]

    def of(self, client: tuple[str, str], dest: Repository) -> Push | None:
        """Return what a client is expected to upload into a repository; None if nothing is."""
        push = self._pushes.get((*client, dest))
        if push is not None:
            push.expire(self._clock())
        return push

    def take(self, client: tuple[str, str], dest: Repository, digest: Digest) -> UploadTurn | None:
        """Stop expecting a blob, and return the turn to upload it, if there is one."""
        push = self._pushes.get((*client, dest))
        if push is None:
            return None
        push.drop(digest)
        return push.leased.pop(digest, None)


async def leave(push: Push, prefix: bytes) -> None:
    """End one upload of a client. After its last one, release the leases of the blobs that were not named."""
    push.streams.pop(prefix, None)
    if not push.streams:
        turns = list(push.leased.values())
        push.leased.clear()
        await give_up(turns)
