"""The server of an index, where it has one: leases and checkpoints are stored there too."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from crossmount.index.keys import Keys
from crossmount.redis.link import Link


@dataclass(frozen=True, slots=True)
class BackingServer:
    """The server of an index.

    Attributes:
        link: a link to it, for event loops; the index closes it.
        keys: the keys of the index's namespace.
    """

    link: Link
    keys: Keys


@runtime_checkable
class ServerBacked(Protocol):
    """An index that may have a server."""

    def server(self) -> BackingServer | None:
        """Return the server; None if there is none."""
        ...


def backing_server(index: object) -> BackingServer | None:
    """Return the server of an index; None if it has none."""
    return index.server() if isinstance(index, ServerBacked) else None
