"""A lease's value: who uploads a layer, as a small JSON text. Whatever is read back is untrusted."""

import json
import math
from dataclasses import dataclass
from typing import Any, Literal, Self

from crossmount.errors import InvalidReferenceError
from crossmount.oci import Repository

VALUE_MAX = 4096
"""Bytes of a value that are looked at."""

_HOLDER_MAX = 200
_SIZE_MAX = 2**63 - 1
_EPOCH_DIGITS = 12

Publishes = Literal["blob", "manifest"]
"""After what a holder names its repository as a source: the blob, or (ECR) the manifest that references it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseValue:
    """Who uploads a layer, or waits for it.

    Attributes:
        token: random; it makes the value its owner's alone.
        holder: host and process, for people.
        dest: the repository it goes into, or None if a stranger's value does not say.
        size: bytes of the layer.
        since: when the push came to it (epoch seconds), by its own clock.
        publishes: when waiters can expect the source.
        taken: when the lease was taken (epoch seconds, by the server's clock); None for one who waits.
    """

    token: str
    holder: str
    dest: Repository | None
    size: int
    since: float
    publishes: Publishes = "blob"
    taken: float | None = None

    def to_text(self) -> str:
        """Write it; the text as a whole is the proof of ownership."""
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
        """Read what somebody wrote under the lease's key on `registry`; None if it is no lease of ours.

        A lease that was taken has, on a second line, when that was: see claim.lua.
        """
        value, _, taken = text[:VALUE_MAX].partition(b"\n")
        try:
            found = json.loads(value)
        except (ValueError, RecursionError):
            return None
        if not isinstance(found, dict):
            return None
        return cls(
            token=_words(found.get("token")),
            holder=_words(found.get("holder")),
            dest=_repository(found.get("dest"), registry),
            size=int(_number(found.get("size"))),
            since=_number(found.get("since")),
            publishes="manifest" if found.get("publishes") == "manifest" else "blob",
            taken=float(taken) if taken.isdigit() and len(taken) <= _EPOCH_DIGITS else None,
        )


def _words(found: Any) -> str:
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
