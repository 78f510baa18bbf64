"""The uploads in progress and their waiters, read from the leases, with the rate and the time left of each.

For operators only: pushes never do this.
"""

from collections.abc import Iterable, Mapping
from contextlib import aclosing
from dataclasses import field

from crossmount._dataclass import dataclass
from crossmount.fleet.lease import VALUE_MAX, LeaseValue
from crossmount.index.protocol import BackingServer
from crossmount.oci import Digest
from crossmount.redis.execute import scan_keys
from crossmount.redis.replies import Command

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


_SPAN = 10.0
"""Seconds over which a rate is measured: short enough to follow, long enough not to jump."""


@dataclass(frozen=True, slots=True)
class MeasuredUpload:
    """An upload in progress.

    Attributes:
        layer: the layer that is uploaded.
        registry: the registry that it is uploaded to.
        repository: the destination's name; empty if the lease does not name one.
        pusher: host and process of the pusher.
        size: bytes of the layer; 0 if unknown.
        sent: bytes that were sent; None if the pusher does not say.
        seconds: since the upload began; None if unknown.
        rate: bytes a second; None if it cannot be measured yet.
        waiting: the pushers that wait for it, with their destinations.
    """

    layer: Digest
    registry: str
    repository: str
    pusher: str
    size: int
    sent: int | None
    seconds: float | None
    rate: float | None
    waiting: tuple[tuple[str, str], ...] = ()

    @property
    def share(self) -> float | None:
        """The part that was sent, 0 to 1; None if unknown."""
        return min(self.sent / self.size, 1.0) if self.sent is not None and self.size else None

    @property
    def seconds_left(self) -> float | None:
        """How long the rest takes at this rate; None if unknown."""
        if self.sent is None or not self.size or not self.rate:
            return None
        return max(self.size - self.sent, 0) / self.rate


@dataclass(slots=True)
class UploadRates:
    """Measures the rates of uploads from one look at them to the next."""

    _seen: Mapping[str, tuple[tuple[float, int], ...]] = field(default_factory=dict)

    def measure(self, found: Iterable[ActiveUpload], now: float) -> list[MeasuredUpload]:
        """Return the progress of uploads that were read at `now`, in epoch seconds."""
        seen: dict[str, tuple[tuple[float, int], ...]] = {}
        measured = []
        for each in found:
            holder = each.holder
            began = holder.taken if holder.taken is not None else holder.since or None
            points: tuple[tuple[float, int], ...] = ()
            sent = holder.sent  # more than all bytes: it waits for its manifest
            if sent is not None and holder.size:
                sent = min(sent, holder.size)
            if sent is not None and holder.token:
                before = self._seen.get(holder.token) or (() if began is None else ((began, 0),))
                points = (*_recent(before, now), (now, sent))
                seen[holder.token] = points
            measured.append(
                MeasuredUpload(
                    layer=each.layer,
                    registry=each.registry,
                    repository="" if holder.dest is None else holder.dest.name,
                    pusher=holder.holder or "unknown",
                    size=holder.size,
                    sent=sent,
                    seconds=None if began is None else max(now - began, 0.0),
                    rate=_rate(points),
                    waiting=tuple(map(_waiter, each.waiting)),
                )
            )
        self._seen = seen
        return measured


def _recent(points: tuple[tuple[float, int], ...], now: float) -> tuple[tuple[float, int], ...]:
    """Return the points of the last seconds, and the newest one before them."""
    old = [point for point in points if point[0] < now - _SPAN]
    return (*old[-1:], *points[len(old) :])


def _rate(points: tuple[tuple[float, int], ...]) -> float | None:
    if len(points) < 2 or points[-1][0] <= points[0][0]:
        return None
    return max(points[-1][1] - points[0][1], 0) / (points[-1][0] - points[0][0])


def _waiter(value: LeaseValue) -> tuple[str, str]:
    return value.holder or "unknown", "" if value.dest is None else value.dest.name
