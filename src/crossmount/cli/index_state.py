"""What can be said of the index that a run would use."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from crossmount.cli.settings import OFF
from crossmount.index.backing_server import server_of
from crossmount.index.protocol import MountIndex
from crossmount.oci import Digest
from crossmount.redis.url import address_of

PINGS = 5
"""Of how many round trips the median is told."""

_LAYERS = [Digest.of(b"%d" % number) for number in range(16)]
"""Layers that are asked for as a push would ask. A part of a Cluster, or a server that forbids our namespace,
answers PING and refuses these; so many do not all lie in one shard."""

Kind = Literal["embedded", "memory", "remote", "off"]


def index_kind(index: str) -> Kind:
    """Return what kind of index a URL names, or `off`.

    Raises:
        InvalidIndexURLError: it names no index.
    """
    if index == OFF:
        return "off"
    topology = address_of(index).topology
    return topology if topology in {"embedded", "memory"} else "remote"


def display_url(index: str) -> str:
    """Return an index's URL without what may be secret in it: user, password, parameters."""
    return address_of(index).shown if index_kind(index) == "remote" else index


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerProbe:
    """A server that answered.

    Attributes:
        server: its name and version.
        round_trip: seconds, the median of a few.
    """

    server: str
    round_trip: float


async def probe_server(index: MountIndex, *, clock: Callable[[], float] = time.perf_counter) -> ServerProbe | None:
    """Ask the index's server who it is, whether it serves us, and how far away it is; None if it is no server.

    Raises:
        IndexFailedError: it does not answer, or refuses.
    """
    server = server_of(index)
    if server is None:
        return None
    (info,) = await server.link.run([("INFO", "server")])  # opens the connection, too
    times = []
    for _ in range(PINGS):
        started = clock()
        (reply,) = await server.link.run([("PING",)])
        if isinstance(reply, Exception):
            raise reply
        times.append(clock() - started)
    for reply in await server.link.run([("EXISTS", server.keys.flags(layer)) for layer in _LAYERS]):
        if isinstance(reply, Exception):
            raise reply
    return ServerProbe(server=_server(info), round_trip=statistics.median(times))


def _server(info: object) -> str:
    """Read the name and the version from INFO, which an ACL may forbid."""
    fields = info if isinstance(info, dict) else {}
    version = fields.get("valkey_version") or fields.get("redis_version")
    if not version:
        return "a server that does not say what it is"
    return f"{fields.get('server_name') or 'redis'} {version}"
