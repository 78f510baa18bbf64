"""The value of a lease, and whether the upload that it stands for makes progress.

A lease is a small JSON text that names the uploader of a layer. A value that is read back is untrusted.

An upload makes progress if it sends bytes at a useful rate, or has sent all of them. An uploader judges itself,
and releases its lease when it is stalled: the next waiter takes its turn, and both uploads continue. The lease
contains how many bytes were sent, so that waiters of other processes can judge too: anybody who may push can
write a lease and renew it for ever.

"""

import json
import math
from collections.abc import Callable
from typing import Any, Literal, Self

from crossmount._dataclass import dataclass
from crossmount.errors import InvalidReferenceError
from crossmount.oci import Repository

VALUE_MAX = 4096
"""The bytes of a value that are read."""

_HOLDER_MAX = 200
_SIZE_MAX = 2**63 - 1
_EPOCH_DIGITS = 12
_SENT_DIGITS = 18

Publishes = Literal["blob", "manifest"]
"""An uploader records its source after the blob, or (ECR) after a manifest that references the blob."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseValue:
    """An uploader of a layer, or a waiter for it.

    Attributes:
        token: random, so that the value is unique.
        holder: host and process, for people.
        dest: the destination repository; None if the value does not name a valid one.
        size: bytes of the layer.
        since: when the push reached the layer (epoch seconds), by the clock of its host.
        publishes: when waiters can expect the source.
        taken: when the lease was acquired (epoch seconds, by the server's clock); None for a waiter.
        sent: bytes of the layer that were sent until the last renewal, more than all while it waits for a
            manifest; None if the holder does not say.
    """

    token: str
    holder: str
    dest: Repository | None
    size: int
    since: float
    publishes: Publishes = "blob"
    taken: float | None = None
    sent: int | None = None

    def to_text(self) -> str:
        """Return the value as text; the whole text proves the ownership of a lease."""
        return json.dumps(
            {
                "token": self.token,
                "holder": self.holder[:_HOLDER_MAX],
                "dest": None if self.dest is None else self.dest.name,
                "size": self.size,
                "since": round(self.since, 3),
                "publishes": self.publishes,
            },
            separators=(",", ":"),
        )

    @classmethod
    def from_text(cls, text: bytes, registry: str) -> Self | None:
        """Parse the text of a lease's key on `registry`; None if it is not a lease of ours.

        The second line of an acquired lease is the time of acquisition (claim.lua), the third has the bytes that
        were sent (renew.lua); older versions write no third line.
        """
        value, _, rest = text[:VALUE_MAX].partition(b"\n")
        taken, _, sent = rest.partition(b"\n")
        try:
            found = json.loads(value)
        except (ValueError, RecursionError):
            return None
        if not isinstance(found, dict):
            return None
        return cls(
            token=_printable(found.get("token")),
            holder=_printable(found.get("holder")),
            dest=_repository(found.get("dest"), registry),
            size=int(_number(found.get("size"))),
            since=_number(found.get("since")),
            publishes="manifest" if found.get("publishes") == "manifest" else "blob",
            taken=float(taken) if taken.isdigit() and len(taken) <= _EPOCH_DIGITS else None,
            sent=int(sent) if sent.isdigit() and len(sent) <= _SENT_DIGITS else None,
        )


def _printable(found: Any) -> str:
    if not isinstance(found, str):
        return ""
    return "".join(c for c in found[:_HOLDER_MAX] if c.isprintable())


def _number(found: Any) -> float:
    known = isinstance(found, int | float) and not isinstance(found, bool) and 0 <= found <= _SIZE_MAX
    return found if known and math.isfinite(found) else 0


def _repository(found: Any, registry: str) -> Repository | None:
    if not isinstance(found, str):
        return None
    try:
        return Repository(registry, found)
    except InvalidReferenceError:
        return None


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
