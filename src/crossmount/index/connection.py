"""From a URL to a link, with time-outs that a push can afford."""

import importlib.util
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from crossmount.errors import IndexUnavailableError
from crossmount.index.hurry import hurry
from crossmount.index.link import CALL_SECONDS, AsyncLink, BlockingLink, Command, Link
from crossmount.index.url import address_of

TIMEOUT_SECONDS = 0.5
"""To connect, and between two bytes of a reply; with one retry a silent server costs twice that."""

CONNECTIONS = 16
THREADS = 64
"""Connections of a blocking link: as many threads work without waiting for each other."""

_SETTINGS: dict[str, Any] = {
    "socket_connect_timeout": TIMEOUT_SECONDS,
    "socket_timeout": TIMEOUT_SECONDS,
    "timeout": CALL_SECONDS,  # to wait for a free connection: the server may be well and only we are many
    "protocol": 2,  # needs no greeting, so the first call costs one round trip as well
    # no CLIENT SETINFO, which would be two more round trips: redis-py 7 took the older names out of use
    **(
        {"driver_info": None}
        if importlib.util.find_spec("redis.driver_info")
        else {"lib_name": None, "lib_version": None}
    ),
}


def async_link(url: str) -> AsyncLink:
    """Make a link for an event loop. No I/O.

    Raises:
        InvalidIndexURLError: `url` names no Redis server.
    """
    where = address_of(url)
    pool = redis.asyncio.BlockingConnectionPool.from_url(
        url, retry=AsyncRetry(NoBackoff(), 1), max_connections=CONNECTIONS, **_SETTINGS
    )
    return AsyncLink(redis.asyncio.Redis.from_pool(pool), where)


def blocking_link(url: str) -> BlockingLink:
    """Make a blocking link. No I/O.

    Raises:
        InvalidIndexURLError: `url` names no Redis server.
    """
    where = address_of(url)
    pool = redis.BlockingConnectionPool.from_url(
        url, retry=Retry(NoBackoff(), 1), max_connections=THREADS, **_SETTINGS
    )
    hurry(pool)
    return BlockingLink(redis.Redis.from_pool(pool), where)


class StartedLink:
    """A link to a server that is started when it is first needed, and again when it went away.

    Args:
        start: makes sure that the server runs, returns its unix socket.
        connect: makes a link from a URL. No I/O.
    """

    where = "the embedded index"

    def __init__(self, start: Callable[[], Awaitable[Path]], connect: Callable[[str], Link]) -> None:
        self._start = start
        self._connect = connect
        self._links: dict[Path, Link] = {}

    async def run(self, commands: Sequence[Command]) -> list[Any]:
        """See `Link`."""
        for link in self._links.values():
            try:
                return await link.run(commands)
            except IndexUnavailableError:
                break  # stopped since: start it once more, below; the same link finds it again
        path = await self._start()
        # setdefault, since threads that come here at once are to share one link
        link = self._links.setdefault(path, self._connect(f"unix://{quote(str(path))}"))
        return await link.run(commands)

    async def parts(self) -> Sequence[Link]:
        """See `Link`: one server, which is started when it is first asked."""
        return [self]

    async def aclose(self) -> None:
        """See `Link`; the server goes on running."""
        for link in self._links.values():
            await link.aclose()
