"""An optional ability of an index: it lies on a server, on which more than the index can be kept (leases)."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from crossmount.index.keys import Keys
from crossmount.redis.link import Link


@dataclass(frozen=True, slots=True)
class BackingServer:
    """The server of an index.

    Attributes:
        link: the way to it, for an event loop; whoever made it closes it.
        keys: the names that are ours there.
    """

    link: Link
    keys: Keys


@runtime_checkable
class ServerBacked(Protocol):
    """An index that can say which server it lies on."""

    def server(self) -> BackingServer | None:
        """Return the server, or None if there is none after all."""
        ...


def backing_server(index: object) -> BackingServer | None:
    """Return the server of an index; None if it has none, or cannot say."""
    return index.server() if isinstance(index, ServerBacked) else None
