"""An index from a URL. Opening does no I/O: the first use connects, and starts the embedded server."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

from redis.credentials import CredentialProvider

from crossmount.embedded.lifecycle import ensure_running
from crossmount.embedded.on_demand import OnDemandLink
from crossmount.errors import InvalidInputError
from crossmount.index.keys import Keys
from crossmount.index.memory import MemoryMountIndex
from crossmount.index.redis_index import RedisMountIndex
from crossmount.redis.connection import async_link, blocking_link
from crossmount.redis.link import Link
from crossmount.redis.url import address_of, kind_of

DEFAULT_URL = "embedded:"
URL_VARIABLE = "CROSSMOUNT_INDEX"


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
    if is_memory(url):
        no_use_for(credentials)
        return MemoryMountIndex()
    link, hints = _links(url, credentials, _start, async_link)
    return RedisMountIndex(link, hints=hints, keys=keys)


def blocking_index_links(url: str | None, credentials: CredentialProvider | None) -> tuple[Link, Link | None]:
    """Make the link that `url` names, one that never suspends, and one for look-ups if that is another.

    Raises:
        InvalidIndexURLError: the URL names no server, or a file that cannot be read.
        InvalidInputError: nobody asks for the credentials.
    """
    return _links(url, credentials, _start_now, blocking_link)


def no_use_for(credentials: CredentialProvider | None) -> None:
    """Refuse credentials that nothing would ever ask for.

    Raises:
        InvalidInputError: there are some.
    """
    if credentials is not None:
        raise InvalidInputError("credentials are for an index on a server, and this one asks for none")


def is_memory(url: str | None) -> bool:
    """Tell whether `url`, or the environment in its place, names an index in this process."""
    return kind_of(_given(url)) == "memory"


def _links(
    url: str | None,
    credentials: CredentialProvider | None,
    start: Callable[[], Awaitable[Path]],
    connect: Callable[..., Link],
) -> tuple[Link, Link | None]:
    given = _given(url)
    if kind_of(given) == "embedded":
        no_use_for(credentials)
        return OnDemandLink(start, connect), None
    hints = connect(given, credentials=credentials, hints=True) if address_of(given).from_replicas else None
    return connect(given, credentials=credentials), hints


def _given(url: str | None) -> str:
    return url or os.environ.get(URL_VARIABLE) or DEFAULT_URL


async def _start() -> Path:
    return await asyncio.to_thread(ensure_running)


async def _start_now() -> Path:
    return ensure_running()
