"""The kind, the display name and the round trip of the index that the options name."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from crossmount.cli.settings import OFF
from crossmount.index.backing_server import backing_server
from crossmount.index.protocol import MountIndex
from crossmount.oci import Digest
from crossmount.redis.url import parse_url

PINGS = 5
"""How many round trips are measured; the median counts."""

_LAYERS = [Digest.of(b"%d" % number) for number in range(16)]
"""Layers to look up as a push would. A server that forbids our namespace, and a Cluster of which a part is down,
answer PING and refuse these. There are enough of them to reach every shard."""

Kind = Literal["embedded", "memory", "remote", "off"]


def index_kind(index: str) -> Kind:
    """Return the kind of index that a URL names, or `off`.

    Raises:
        InvalidIndexURLError: the URL breaks the grammar.
    """
    if index == OFF:
        return "off"
    topology = parse_url(index).topology
    return topology if topology in {"embedded", "memory"} else "remote"


def display_url(index: str) -> str:
    """Return the URL of an index without the parts that may be secret: user, password, parameters."""
    return parse_url(index).shown if index_kind(index) == "remote" else index


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerProbe:
    """A server that answered.

    Attributes:
        server: its name and version.
        round_trip: the median round trip, in seconds.
    """

    server: str
    round_trip: float


async def probe_server(index: MountIndex, *, clock: Callable[[], float] = time.perf_counter) -> ServerProbe | None:
    """Measure the server of an index, and read from it as a push would. None if the index has no server.

    Raises:
        IndexFailedError: the server does not answer, or refuses a command.
    """
    server = backing_server(index)
    if server is None:
        return None
    (info,) = await server.link.run([("INFO", "server")])  # opens the connection
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
    """Return the name and version from a reply to INFO, which an ACL may forbid."""
    fields = info if isinstance(info, dict) else {}
    version = fields.get("valkey_version") or fields.get("redis_version")
    if not version:
        return "a server of unknown kind"
    return f"{fields.get('server_name') or 'redis'} {version}"
