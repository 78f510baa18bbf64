"""From a URL to a link, with time-outs that a push can afford."""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from crossmount.errors import IndexUnavailableError, InvalidIndexURLError
from crossmount.index.link import AsyncLink, BlockingLink, Command, Link

REDIS_SCHEMES = ("redis", "rediss", "unix")

TIMEOUT_SECONDS = 0.25
"""To connect, and between two bytes of a reply; with one retry a silent server costs twice that."""

CONNECTIONS = 16

_SETTINGS: dict[str, Any] = {
    "socket_connect_timeout": TIMEOUT_SECONDS,
    "socket_timeout": TIMEOUT_SECONDS,
    "max_connections": CONNECTIONS,
    "timeout": TIMEOUT_SECONDS,  # to wait for a free connection
    "protocol": 2,  # needs no greeting, so the first call costs one round trip as well
    "lib_name": None,
    "lib_version": None,
}


def async_link(url: str) -> AsyncLink:
    """Make a link for an event loop. No I/O.

    Raises:
        InvalidIndexURLError: `url` names no Redis server.
    """
    where = _checked(url)
    with _url_errors(where):
        pool = redis.asyncio.BlockingConnectionPool.from_url(url, retry=AsyncRetry(NoBackoff(), 1), **_SETTINGS)
    return AsyncLink(redis.asyncio.Redis.from_pool(pool), where)


def blocking_link(url: str) -> BlockingLink:
    """Make a blocking link. No I/O.

    Raises:
        InvalidIndexURLError: `url` names no Redis server.
    """
    where = _checked(url)
    with _url_errors(where):
        pool = redis.BlockingConnectionPool.from_url(url, retry=Retry(NoBackoff(), 1), **_SETTINGS)
    return BlockingLink(redis.Redis.from_pool(pool), where)


class StartedLink:
    """A link to a server that is started when it is first needed, and again when it went away.

    Args:
        start: makes sure that the server runs, returns its unix socket.
        connect: makes a link from a URL.
    """

    where = "the embedded index"

    def __init__(self, start: Callable[[], Awaitable[Path]], connect: Callable[[str], Link]) -> None:
        self._start = start
        self._connect = connect
        self._link: Link | None = None

    async def run(self, commands: Sequence[Command]) -> list[Any]:
        """See `Link`."""
        if self._link is not None:
            try:
                return await self._link.run(commands)
            except IndexUnavailableError:
                await self.aclose()  # stopped since: start it once more, below
        self._link = self._connect(f"unix://{await self._start()}")
        return await self._link.run(commands)

    async def aclose(self) -> None:
        """See `Link`; the server goes on running."""
        if self._link is not None:
            link, self._link = self._link, None
            await link.aclose()


@contextmanager
def _url_errors(where: str) -> Iterator[None]:
    """Turn redis-py's words about a URL into ours, without repeating the URL: it may hold a password."""
    try:
        yield
    except (ValueError, TypeError, AttributeError) as error:
        raise InvalidIndexURLError(f"index URL for {where}: {error}") from error


def _checked(url: str) -> str:
    """Return what to call the server of `url` in messages."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise InvalidIndexURLError("the index URL has a port that is no number from 1 to 65535") from None
    if parts.scheme not in REDIS_SCHEMES:
        raise InvalidIndexURLError(
            "not an index URL: give redis://, rediss://, unix://, memory:// or embedded: (no index: off, or None)"
        )
    if parts.scheme == "unix":
        if not parts.path.startswith("/"):
            raise InvalidIndexURLError("a unix:// index URL needs an absolute path: unix:///run/valkey.sock")
        return f"unix://{parts.path}"
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or "localhost"
    return f"{parts.scheme}://{host}:{port or 6379}"
