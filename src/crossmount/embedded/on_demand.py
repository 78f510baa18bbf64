"""A link to a server that is started when it is needed."""

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from crossmount.errors import IndexUnavailableError
from crossmount.redis.link import Command, Link


class OnDemandLink:
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
