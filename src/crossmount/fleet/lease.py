"""The value of a lease: the uploader of a layer as a small JSON text. A value that is read back is untrusted."""

import json
import math
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
