"""Walking through the keys of an index's server, or of all servers of a Cluster: for people, never for pushes."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass

from crossmount.errors import IndexRefusedError
from crossmount.redis.link import Link

COUNT = 1000
"""How many keys a server looks at in one round trip; more would hold up the others who ask it."""

SLOW_SECONDS = 0.02
"""A round trip that took longer, and twice as long as the fastest, is of a server that has much else to do."""

PAUSE_MAX = 1.0


class ScanForbiddenError(IndexRefusedError):
    """The user may not look at all keys, which an access list rightly keeps from pushers."""


@dataclass(frozen=True, slots=True)
class KeyPage:
    """What a server found in one round trip.

    Attributes:
        keys: those that match, maybe none.
        cursor: where to go on from here; 0 after the last page. It holds as long as the server's process lives.
    """

    keys: tuple[bytes, ...]
    cursor: int


async def scan_pages(
    part: Link,
    pattern: str,
    *,
    count: int = COUNT,
    cursor: int = 0,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> AsyncGenerator[KeyPage, None]:
    """Yield what one server finds, page after page, and let it breathe in between when it is slow.

    Args:
        part: the way to one server; see `Link.parts`.
        pattern: as SCAN takes it, of `Keys`' making.
        count: about how many keys are looked at in one round trip.
        cursor: where an earlier walk of the same process of the server was.
        clock: seconds, from any start.
        sleep: waits that many seconds.

    Raises:
        IndexFailedError: the server does not serve, or does not allow SCAN.
    """
    fastest = float("inf")
    while True:
        started = clock()
        (reply,) = await part.run([("SCAN", cursor, "MATCH", pattern, "COUNT", count)])
        took = clock() - started
        fastest = min(fastest, took)
        if isinstance(reply, IndexRefusedError):
            raise _forbidden(reply)
        cursor, keys = reply
        if not isinstance(keys, list):
            raise IndexRefusedError(f"index at {part.where} answers SCAN with something else")
        yield KeyPage(tuple([key for key in keys if isinstance(key, bytes)]), cursor)
        if not cursor:
            return
        if took > max(SLOW_SECONDS, 2 * fastest):
            await sleep(min(took, PAUSE_MAX))


async def scan_keys(link: Link, pattern: str, count: int = COUNT) -> AsyncGenerator[bytes, None]:
    """Yield the keys that match `pattern`, on every server that holds some of them.

    What is there from the walk's start to its end is told at least once, and maybe twice (SCAN's own promise); on
    a Cluster whose slots move meanwhile a key that moves may be missed.

    Args:
        link: the way to the server, or to the Cluster.
        pattern: as SCAN takes it, of `Keys`' making.
        count: how many keys are looked at in one round trip.

    Raises:
        IndexFailedError: a server does not serve, or does not allow SCAN.
    """
    for part in await link.parts():
        async for page in scan_pages(part, pattern, count=count):
            for key in page.keys:
                yield key


def _forbidden(reply: IndexRefusedError) -> IndexRefusedError:
    if "permission" not in str(reply).lower():
        return reply
    return ScanForbiddenError(
        f"{reply}: only a user who may look at all keys can do this, such as crossmount-operator in "
        "deploy/redis/users.acl: name that one in the index's URL"
    )
