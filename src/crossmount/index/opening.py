"""An index from a URL. Opening does no I/O: the first use connects, and starts the embedded server."""

import os
from functools import partial
from pathlib import Path

from redis.credentials import CredentialProvider

from crossmount.embedded.lifecycle import OnDemandClient, ensure_running
from crossmount.errors import InvalidInputError
from crossmount.index.keys import Keys
from crossmount.index.memory import MemoryMountIndex
from crossmount.index.redis_index import RedisMountIndex
from crossmount.redis.address import Address
from crossmount.redis.client import Client
from crossmount.redis.connection import connect
from crossmount.redis.link import ThreadedLink
from crossmount.redis.url import parse_url

DEFAULT_URL = "embedded:"
URL_VARIABLE = "CROSSMOUNT_INDEX"

EMBEDDED_START_SECONDS = 5.0
"""How long a call waits for the embedded server to start before a push goes on without the index."""


def open_index(
    url: str | None = None, *, namespace: str = "default", credentials: CredentialProvider | None = None
) -> RedisMountIndex | MemoryMountIndex:
    """Open an index for an event loop.

    Args:
        url: `redis://`, `redis+cluster://`, `redis+sentinel://` (`rediss` with TLS), `unix://`, `memory://`, or
            `embedded:`; None is what CROSSMOUNT_INDEX says, else the embedded index.
        namespace: keeps tenants apart on one server.
        credentials: redis-py's way to log in, in place of a login in the URL.

    Raises:
        InvalidIndexURLError: the URL names no index, or a file that cannot be read.
        InvalidInputError: the namespace breaks its grammar, or nobody asks for the credentials.
    """
    keys = Keys(namespace)
    clients = clients_of(url, credentials)
    if not clients:
        return MemoryMountIndex()
    link, *for_look_ups = map(ThreadedLink, clients)
    return RedisMountIndex(link, hints=next(iter(for_look_ups), None), keys=keys)


def clients_of(url: str | None, credentials: CredentialProvider | None) -> list[Client]:
    """Make the client of the server that a URL names, and one for look-ups if that is another.

    Returns:
        One client or two; none for an index in this process.

    Raises:
        InvalidIndexURLError: the URL names no index, or a file that cannot be read.
        InvalidInputError: nobody asks for the credentials.
    """
    address = parse_url(url or os.environ.get(URL_VARIABLE) or DEFAULT_URL)
    if not address.is_remote and credentials is not None:
        raise InvalidInputError("credentials are for an index on a server, and this one asks for none")
    if address.topology == "memory":
        return []
    if address.topology == "embedded":
        return [OnDemandClient(partial(ensure_running, timeout=EMBEDDED_START_SECONDS), _connect)]
    client = connect(address, credentials=credentials)
    if not address.from_replicas:
        return [client]
    return [client, connect(address, credentials=credentials, for_look_ups=True)]


def _connect(path: Path) -> Client:
    return connect(Address(scheme="unix", path=str(path)))
