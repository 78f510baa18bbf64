"""How far a prune is, kept beside the index: one that was killed goes on where it was.

Kept is the cursor of each server's walk, a few bytes however large the index is, under the identity of the
server's process: a cursor means something to that process alone. A server that was restarted, or took over from
another, is walked from its start.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass

from crossmount._parsing import decimal
from crossmount.index.backing_server import Server
from crossmount.index.decode import as_map
from crossmount.redis.execute import write
from crossmount.redis.link import Link

PROGRESS_SECONDS = 24 * 3600
"""For how long a prune can be gone on with."""

CURSOR_DIGITS = 20
"""A cursor has 64 bits."""

_SALT = re.compile(r"[0-9a-f]{32}")


@dataclass(slots=True)
class ServerWalk:
    """How far the walk of one server is.

    Attributes:
        part: the way to it.
        process: what its process is called; "" if it does not say, and then nothing is kept of it.
        cursor: where to go on.
        keys: about how many keys were looked at.
        done: whether that is all.
    """

    part: Link
    process: str
    cursor: int = 0
    keys: int = 0
    done: bool = False

    def text(self) -> str:
        """Write it."""
        return f"{'done' if self.done else self.cursor} {self.keys}"

    def read(self, text: str) -> bool:
        """Take on what `text` wrote; False if it is anything else."""
        where, _, rest = text.partition(" ")
        cursor, keys = decimal(where, digits=CURSOR_DIGITS), decimal(rest)
        if keys is None or (cursor is None and where != "done"):
            return False
        self.cursor, self.keys, self.done = cursor or 0, keys, cursor is None
        return True


class PruneCheckpoint:
    """How far one prune is on the server of an index.

    Args:
        server: the server.
        asked: what sets this prune apart from others.
        salt: chooses the sample, if this is a new one; 32 hex digits.

    Attributes:
        resumed: whether an earlier one was not finished.
        salt: what chooses the sample.
    """

    def __init__(self, server: Server, asked: Iterable[str], *, salt: str) -> None:
        self.salt = salt
        self.resumed = False
        self._server = server
        self._key = server.keys.prune(hashlib.sha256("\0".join(asked).encode()).hexdigest()[:16])

    async def begin(self, *, afresh: bool) -> list[ServerWalk]:
        """Begin, and say how far each server's walk is; `afresh` forgets an earlier one.

        Raises:
            IndexFailedError: the server does not serve.
        """
        if afresh:
            await self.end()
        walks = [ServerWalk(part, await _process(part)) for part in await self._server.link.parts()]
        (reply,) = await self._server.link.run([("HGETALL", self._key)])
        kept = {
            name.decode("ascii", "replace"): text.decode("ascii", "replace")
            for name, text in as_map(reply).items()
        }
        if _SALT.fullmatch(kept.get("salt", "")):
            for walk in walks:
                self.resumed = walk.read(kept.get(walk.process, "")) or self.resumed
        if self.resumed:
            self.salt = kept["salt"]
        elif kept:  # of servers that are gone, or nothing of ours
            await self.end()
        return walks

    async def note(self, walk: ServerWalk) -> None:
        """Keep in mind how far a server's walk is, in one round trip."""
        if walk.process:
            await write(
                self._server.link,
                [
                    ("HSET", self._key, "salt", self.salt, walk.process, walk.text()),
                    ("EXPIRE", self._key, PROGRESS_SECONDS),
                ],
            )

    async def end(self) -> None:
        """Forget it all."""
        await write(self._server.link, [("DEL", self._key)])


async def _process(part: Link) -> str:
    (info,) = await part.run([("INFO", "server")])
    return str(info.get("run_id", "")) if isinstance(info, dict) else ""
