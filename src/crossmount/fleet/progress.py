"""Whether an upload that others wait for makes progress: it sends bytes at a useful rate, or has sent all of them.

An uploader judges itself, and releases its lease when it is stalled: the next waiter takes its turn, and both
uploads continue. The lease contains how many bytes were sent, so that waiters of other processes can judge too: a
lease is worth what its holder shows, since whoever may push may write one and renew it for ever.
"""

from collections.abc import Callable

USEFUL_RATE = 32 * 1024
"""Bytes a second below which nobody waits for an upload."""

PACED_SECONDS = 6.0
"""Seconds that an upload may be too slow if it is relayed at a client's pace."""

OWN_SECONDS = 30.0
"""The same for all other uploads: the registry may ask for a pause."""

OTHERS_SECONDS = 5.0
"""How long the lease of another process may show no progress, renewals included. A layer that takes longer to
upload gets longer, up to `OWN_SECONDS`: the longer its upload, the more it costs to upload it once more."""

RESTARTS_MAX = 3
"""How often the upload of another process may begin anew, by the same holder or the next, and get its time."""

ALIVE_BYTES = 1024 * 1024
"""What a lease shows more at each renewal while its blob, which is uploaded, waits for a manifest: whoever renews
a lease and shows nothing new is no push that goes on."""

_ASSUMED_RATE = 1024 * 1024


class Pace:
    """Judges an upload by the bytes that it has sent at one moment and the next. No I/O.

    Args:
        seconds: how long it may be too slow.
        rate: bytes a second that are enough.
    """

    def __init__(self, *, seconds: float, rate: float = USEFUL_RATE) -> None:
        self._seconds = seconds
        self._rate = rate
        self._since: float | None = None
        self._done = 0

    def check(self, done: int, size: int, now: float) -> bool:
        """Compare with the earlier checks, and return whether the upload is stalled.

        Args:
            done: bytes sent so far.
            size: all bytes, 0 if that is not known yet; once they are sent, the upload is not stalled, however
                long the registry takes.
            now: monotonic seconds.
        """
        if self._since is None or done < self._done or 0 < size <= done:
            self._since, self._done = now, done
            return False
        elapsed = now - self._since
        if elapsed < self._seconds:
            return False
        if done - self._done < self._rate * elapsed:
            return True
        self._since, self._done = now, done
        return False


class LeasePace:
    """Judges the upload of another process by what its lease shows, which may be untrue. No I/O."""

    def __init__(self) -> None:
        self._holder: bytes | None = None
        self._restarts = -1  # the first holder is no restart
        self._since = 0.0
        self._done = self._best = 0
        self.due = 0.0  # when the upload may be given up, if nothing changes (monotonic seconds)

    def check(
        self,
        holder: bytes,
        sent: int | None,
        *,
        size: int,
        now: float,
        rate: float | None,
        waits_for_manifest: bool,
    ) -> bool:
        """Compare with the earlier checks, and return whether nobody should wait for this upload any longer.

        Args:
            holder: the text of the lease, which differs for each holder.
            sent: bytes that the holder has sent, if it says so.
            size: all bytes of the layer, as the waiter knows them.
            now: monotonic seconds.
            rate: bytes a second of this process's uploads; None if none was measured.
            waits_for_manifest: whether the registry mounts the layer only after a manifest, which takes as long as
                the holder's other layers. Until then the holder shows more than all bytes (`ALIVE_BYTES`).
        """
        done = (sent or 0) if waits_for_manifest else min(sent or 0, size)
        if (holder != self._holder or done < self._done) and self._restarts < RESTARTS_MAX:
            self._restarts += 1
            self._since, self._best = now, done
        self._holder, self._done = holder, done
        is_sent = done >= size and not waits_for_manifest
        alone = size / (rate or _ASSUMED_RATE)
        if is_sent and size > self._best:
            self._since, self._best = now, done
        elapsed = now - self._since
        # once all is sent, bytes may still be in the buffers of a slow link, and the registry has to store them
        limit = max(OWN_SECONDS, alone) if is_sent else min(max(OTHERS_SECONDS, alone), OWN_SECONDS)
        self.due = self._since + limit
        if is_sent or elapsed < limit:
            return elapsed >= limit
        if done - self._best < USEFUL_RATE * elapsed:
            return True
        self._since, self._best = now, done
        return False


class UploadProgress:
    """The bytes of one upload that were sent, as its uploader counts them.

    Args:
        size: all bytes of the blob.
        seconds: how long it may be too slow.
        clock: monotonic seconds.

    Attributes:
        size: all bytes of the blob; 0 if they are not known yet.
        sent: bytes sent so far.
    """

    def __init__(self, size: int, *, seconds: float, clock: Callable[[], float]) -> None:
        self.size = size
        self.sent = 0
        self._is_complete = False
        self._pace = Pace(seconds=seconds)
        self._clock = clock

    def start(self) -> None:
        """Count the time from now on."""
        self._pace.check(self.sent, self.size, self._clock())

    def reach(self, sent: int) -> None:
        """Note how many bytes were sent."""
        self.sent = sent

    def complete(self) -> None:
        """Note that the upload has succeeded."""
        self.sent, self._is_complete = self.size, True

    def renewed(self) -> int:
        """Return what to show at a renewal of the lease."""
        if self._is_complete:
            self.sent += ALIVE_BYTES
        return self.sent

    def check_stalled(self) -> bool:
        """Compare with the earlier checks, and return whether the upload is stalled."""
        return self._pace.check(self.sent, self.size, self._clock())
