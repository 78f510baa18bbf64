"""Walking through the keys of an index's server, or of all servers of a Cluster: for people, never for pushes."""

from collections.abc import AsyncGenerator
from typing import Any

from crossmount.errors import IndexRefusedError
from crossmount.index.link import Link

COUNT = 1000
"""How many keys a server looks at in one round trip; more would hold up the others who ask it."""


async def walk(link: Link, pattern: str, count: int = COUNT) -> AsyncGenerator[bytes, None]:
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
        cursor: Any = 0
        while True:
            (reply,) = await part.run([("SCAN", cursor, "MATCH", pattern, "COUNT", count)])
            if isinstance(reply, IndexRefusedError):
                raise reply
            cursor, keys = reply
            for key in keys:
                yield key
            if not int(cursor):
                break
