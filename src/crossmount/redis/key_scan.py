"""Scan the keys of a server, or of all servers of a Cluster. Operators' commands do this; pushes never do."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable

from crossmount._dataclass import dataclass
from crossmount.errors import IndexRefusedError
from crossmount.redis.link import Link

COUNT = 1000
"""How many keys a server examines in one round trip; more would delay its other clients."""

SLOW_SECONDS = 0.02
"""A round trip that takes longer, and twice as long as the fastest one, means that the server is busy."""

PAUSE_MAX = 1.0


class ScanForbiddenError(IndexRefusedError):
    """The user may not scan keys. An access list rightly forbids that to pushers."""


@dataclass(frozen=True, slots=True)
class KeyPage:
    """The result of one SCAN command.

    Attributes:
        keys: the keys that match, which may be none.
        cursor: where the next page begins, 0 after the last page. It is valid until the server restarts.
    """

    keys: tuple[bytes, ...]
    cursor: int


async def scan_pages(
    server: Link,
    pattern: str,
    *,
    count: int = COUNT,
    cursor: int = 0,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> AsyncGenerator[KeyPage, None]:
    """Yield the keys of one server, page by page, with a pause after a page when the server is busy.

    Args:
        server: a link to one server, from `Link.servers`.
        pattern: a pattern of SCAN.
        count: about how many keys the server examines in one round trip.
        cursor: the cursor of an earlier page, from the same process of the server.
        clock: seconds.
        sleep: waits for some seconds.

    Raises:
        IndexFailedError: no answer, or the server does not allow SCAN.
    """
    fastest = float("inf")
    while True:
        started = clock()
        (reply,) = await server.run([("SCAN", cursor, "MATCH", pattern, "COUNT", count)])
        took = clock() - started
        fastest = min(fastest, took)
        if isinstance(reply, IndexRefusedError):
            raise for_operators(reply)
        cursor, keys = reply
        if not isinstance(keys, list):
            raise IndexRefusedError(f"index at {server.where} answers SCAN with something else")
        yield KeyPage(tuple([key for key in keys if isinstance(key, bytes)]), cursor)
        if not cursor:
            return
        if took > max(SLOW_SECONDS, 2 * fastest):
            await sleep(min(took, PAUSE_MAX))


async def scan_keys(link: Link, pattern: str, count: int = COUNT) -> AsyncGenerator[bytes, None]:
    """Yield the keys that match `pattern`, from all servers.

    A key that exists from the start to the end is yielded at least once, and maybe twice (a promise of SCAN). On a
    Cluster, a key whose slot moves meanwhile may be missed.

    Args:
        link: a link to the server, or to the Cluster.
        pattern: a pattern of SCAN.
        count: about how many keys a server examines in one round trip.

    Raises:
        IndexFailedError: a server does not answer, or does not allow SCAN.
    """
    for server in await link.servers():
        async for page in scan_pages(server, pattern, count=count):
            for key in page.keys:
                yield key


def for_operators(reply: IndexRefusedError) -> IndexRefusedError:
    """Return a refusal, and where it is for lack of a right, with words on who has that right."""
    if "permission" not in str(reply).lower():
        return reply
    return ScanForbiddenError(
        f"{reply}: this needs a user who may list all keys, such as crossmount-operator in deploy/redis/users.acl"
    )
