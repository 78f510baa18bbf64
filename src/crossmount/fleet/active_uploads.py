"""The uploads in progress and their waiters, read from the leases, for operators only; pushes never do this."""

from contextlib import aclosing

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
