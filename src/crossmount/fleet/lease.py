"""The value of a lease, a small JSON text that names the uploader; and the uploads in progress, read from leases.

A value that is read back is untrusted.
"""

import json
import math
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Literal, Self

from crossmount.errors import InvalidReferenceError
from crossmount.index.protocol import BackingServer
from crossmount.oci import Digest, Repository
from crossmount.redis.key_scan import scan_keys
from crossmount.redis.replies import Command

VALUE_MAX = 4096
"""The bytes of a value that are read."""

_HOLDER_MAX = 200
_SIZE_MAX = 2**63 - 1
_EPOCH_DIGITS = 12

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
    """

    token: str
    holder: str
    dest: Repository | None
    size: int
    since: float
    publishes: Publishes = "blob"
    taken: float | None = None

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

        The second line of an acquired lease is the time of acquisition: see claim.lua.
        """
        value, _, taken = text[:VALUE_MAX].partition(b"\n")
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


LISTED_MAX = 10_000
"""The most leases that are read."""

_WAITERS_MAX = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class ActiveUpload:
    """An upload that others may wait for.

    Attributes:
        holder: the uploader; an empty value if the lease's text is not ours.
        seconds_left: seconds until the lease expires unless it is renewed; None if it never expires.
        waiting: the waiters.
    """

    registry: str
    layer: Digest
    holder: LeaseValue
    seconds_left: float | None
    waiting: tuple[LeaseValue, ...]


_NOBODY = LeaseValue(token="", holder="", dest=None, size=0, since=0)


async def active_uploads(server: BackingServer) -> list[ActiveUpload]:
    """Read all leases of the namespace: the oldest first, then by layer.

    This scans all keys of the server, a thousand in a round trip: for people, not for pushes.

    Raises:
        IndexFailedError: the server did not answer, or refused a command.
    """
    names = await _leases(server)
    commands: list[Command] = []
    for registry, layer in names:
        lease, waiters = server.keys.lease(layer, registry), server.keys.waiters(layer, registry)
        commands.append(("GETRANGE", lease, 0, VALUE_MAX - 1))
        commands.append(("PTTL", lease))
        commands.append(("ZRANGE", waiters, 0, _WAITERS_MAX))
    replies = await server.link.run(commands) if commands else []
    found = []
    for number, (registry, layer) in enumerate(names):
        text, left, waiting = replies[3 * number : 3 * number + 3]
        if isinstance(text, bytes) and text:  # the lease may have ended since the scan
            values = (
                [LeaseValue.from_text(each, registry) for each in waiting if isinstance(each, bytes)]
                if isinstance(waiting, list)
                else []
            )
            found.append(
                ActiveUpload(
                    registry=registry,
                    layer=layer,
                    holder=LeaseValue.from_text(text, registry) or _NOBODY,
                    seconds_left=left / 1000 if isinstance(left, int) and left >= 0 else None,
                    waiting=tuple(value for value in values if value is not None),
                )
            )
    return sorted(found, key=lambda each: (each.holder.since, each.layer, each.registry))


async def _leases(server: BackingServer) -> list[tuple[str, Digest]]:
    """Return registry and layer of each lease."""
    found: set[tuple[str, Digest]] = set()
    async with aclosing(scan_keys(server.link, server.keys.all_leases())) as keys:
        async for key in keys:
            named = server.keys.parse(key)
            if named is not None and named.layer is not None:
                found.add((named.registry, named.layer))
            if len(found) >= LISTED_MAX:
                break
    return sorted(found)
