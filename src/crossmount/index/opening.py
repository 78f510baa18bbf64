"""An index from a URL. Opening does no I/O: the first use connects, and starts the embedded server."""

import os
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from redis.credentials import CredentialProvider

from crossmount.errors import InvalidInputError
from crossmount.index.aliases import SameRegistries
from crossmount.index.keys import Keys
from crossmount.index.memory import MemoryMountIndex
from crossmount.index.redis_index import RedisMountIndex
from crossmount.redis.address import Address
from crossmount.redis.client import Client
from crossmount.redis.connection import connect
from crossmount.redis.like import AsyncUserClient, client_like
from crossmount.redis.link import ThreadedLink
from crossmount.redis.nearest import WarmingClient
from crossmount.redis.url import parse_url

DEFAULT_URL = "embedded:"
URL_VARIABLE = "CROSSMOUNT_INDEX"
SAME_VARIABLE = "CROSSMOUNT_SAME_REGISTRY"

EMBEDDED_START_SECONDS = 5.0
"""How long a call waits for the embedded server to start before a push goes on without the index."""


def open_index(
    url: str | AsyncUserClient | None = None,
    *,
    namespace: str = "default",
    credentials: CredentialProvider | None = None,
    same_registry: Iterable[str] | None = None,
) -> RedisMountIndex | MemoryMountIndex:
    """Open an index.

    Args:
        url: `redis://`, `redis+cluster://`, `redis+sentinel://` (`rediss` with TLS), `unix://`, `memory://`, or
            `embedded:`; None is what CROSSMOUNT_INDEX says, else the embedded index. Or a client or a pool of
            redis-py: its address, login and TLS settings are used, on connections of our own; it is not closed.
        namespace: keeps tenants apart on one server.
        credentials: redis-py's way to log in, in place of a login in the URL.
        same_registry: pairs of names of one registry, such as `localhost:5000=registry:5000`: the index keeps what
            it knows of the first name under the second. None is what CROSSMOUNT_SAME_REGISTRY says (pairs are
            separated by commas). They come before the pairs that the index itself shares.

    Raises:
        InvalidIndexURLError: the URL names no index, or a file that cannot be read.
        InvalidInputError: the namespace or a pair breaks its grammar, no server needs the credentials, or a client
            is of another kind.
    """
    keys, same = Keys(namespace), same_registries(same_registry)
    clients = clients_of(url, credentials, asynchronous=True)
    if not clients:
        return MemoryMountIndex(same=same)
    link, *for_look_ups = map(ThreadedLink, clients)
    return RedisMountIndex(link, hints=next(iter(for_look_ups), None), keys=keys, same=same)


def same_registries(pairs: Iterable[str] | None) -> SameRegistries:
    """Parse pairs of names of one registry, or those of the environment if they are None.

    Raises:
        InvalidInputError: a text is not a pair of names of registries.
    """
    return SameRegistries.parse([os.environ.get(SAME_VARIABLE, "")] if pairs is None else pairs)


def clients_of(url: object, credentials: CredentialProvider | None, *, asynchronous: bool) -> list[Client]:
    """Make the client of the server that a URL or a user's client names, and one for look-ups if that is another.

    Returns:
        One client or two; none for an index in this process.

    Raises:
        InvalidIndexURLError: the URL names no index, or a file that cannot be read.
        InvalidInputError: no server needs the credentials, or the client is of another kind.
    """
    if url is not None and not isinstance(url, str):
        like = client_like(url, asynchronous=asynchronous)
        if credentials is not None:
            raise InvalidInputError("credentials are for a URL, and a client has its own: give one of the two")
        return [like]
    address = parse_url(url or os.environ.get(URL_VARIABLE) or DEFAULT_URL)
    if not address.is_remote and credentials is not None:
        raise InvalidInputError("credentials are for an index on a server, and this one asks for none")
    if address.topology == "memory":
        return []
    if address.topology == "embedded":
        from crossmount.embedded.lifecycle import OnDemandClient, ensure_running  # noqa: PLC0415 others need no server

        return [OnDemandClient(partial(ensure_running, timeout=EMBEDDED_START_SECONDS), _connect)]
    client = connect(address, credentials=credentials)
    if not address.reads_apart:
        return [client]
    return [client, WarmingClient(connect(address, credentials=credentials, for_look_ups=True), client)]


def _connect(path: Path) -> Client:
    return connect(Address(scheme="unix", path=str(path)))
