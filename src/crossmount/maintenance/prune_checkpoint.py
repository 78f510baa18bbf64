"""How far a prune is, stored beside the index, so that a prune that was killed is resumed.

Stored is the SCAN cursor of each server, a few bytes however large the index is, under the run id of the server's
process: a cursor means something to that process only. A server that was restarted, or that took over from
another, is scanned from the start.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from crossmount._parsing import decimal
from crossmount.index.backing_server import BackingServer
from crossmount.index.checkpoint import Checkpoint, scope_of
from crossmount.redis.link import Link

CURSOR_DIGITS = 20
"""A cursor has 64 bits."""


@dataclass(slots=True)
class ServerWalk:
    """How far the prune is on one server.

    Attributes:
        part: the link to it.
        process: the run id of its process; "" if the server does not give it, and then nothing is stored.
        cursor: the cursor to continue from.
        keys: about how many keys were looked at.
        done: whether the server is finished.
    """

    part: Link
    process: str
    cursor: int = 0
    keys: int = 0
    done: bool = False

    def text(self) -> str:
        """Return it in the form that `load` reads."""
        return f"{'done' if self.done else self.cursor} {self.keys}"

    def load(self, text: str) -> bool:
        """Continue from where `text` says; return False if it breaks the format."""
        where, _, rest = text.partition(" ")
        cursor, keys = decimal(where, digits=CURSOR_DIGITS), decimal(rest)
        if keys is None or (cursor is None and where != "done"):
            return False
        self.cursor, self.keys, self.done = cursor or 0, keys, cursor is None
        return True


class PruneCheckpoint:
    """The checkpoint of one prune.

    Args:
        server: the server of the index.
        choice: what sets this prune apart from others.
        salt: draws the sample, unless an earlier prune is resumed; 32 hex digits.
    """

    def __init__(self, server: BackingServer, choice: Iterable[str], *, salt: str) -> None:
        self._link = server.link
        self._stored = Checkpoint(server, server.keys.prune(scope_of(choice)), run=salt)

    @property
    def resumed(self) -> bool:
        """Whether an unfinished prune is resumed."""
        return self._stored.resumed

    @property
    def salt(self) -> str:
        """What draws the sample: a resumed prune continues with its own sample."""
        return self._stored.run

    async def begin(self, *, afresh: bool) -> list[ServerWalk]:
        """Begin, and return how far each server is; `afresh` deletes an unfinished prune's checkpoint instead.

        Raises:
            IndexFailedError: the server did not answer, or refused.
        """
        walks = [ServerWalk(part, await _process(part)) for part in await self._link.parts()]
        fields = await self._stored.begin(afresh=afresh)
        continued = [walk.load(fields.get(walk.process, "")) for walk in walks]
        if self.resumed and not any(continued):  # all its servers are gone
            await self._stored.restart()
        return walks

    async def save(self, walk: ServerWalk) -> None:
        """Save how far one server is, in one round trip."""
        if walk.process:
            await self._stored.save({walk.process: walk.text()})

    async def end(self) -> None:
        """Delete it: the prune is finished."""
        await self._stored.end()


async def _process(part: Link) -> str:
    (info,) = await part.run([("INFO", "server")])
    return str(info.get("run_id", "")) if isinstance(info, dict) else ""
