"""A checkpoint of a scan or a prune, stored beside the index: one that was killed is resumed where it stopped.

It is on the index's server because the work is done for that index only, and any process may resume it. It is a
hash that expires one day after its last write, since older work may be out of date.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence

from crossmount.index.decode import as_map
from crossmount.index.protocol import BackingServer
from crossmount.redis.execute import for_operators, run_reads, run_writes
from crossmount.redis.replies import Command, KeyRefusedError

CHECKPOINT_SECONDS = 24 * 3600

_RUN = re.compile(r"[0-9a-f]{16,64}")
_RUN_FIELD = "run"


def scope_of(choice: Iterable[str]) -> str:
    """Return a short name for the options of a scan or prune; only one with the same options is resumed."""
    return hashlib.sha256("\0".join(choice).encode()).hexdigest()[:16]


class Checkpoint:
    """The checkpoint of one scan or prune.

    Args:
        server: the server of the index.
        key: the hash.
        run: 16 to 64 hex digits that identify this run, unless it resumes an earlier one.

    Attributes:
        server: the same.
        run: identifies the run; the earlier run's if that one is resumed.
        resumed: whether an unfinished run is resumed.
    """

    def __init__(self, server: BackingServer, key: str, *, run: str) -> None:
        self.server = server
        self.run = self._own_run = run
        self.resumed = False
        self._key = key

    async def begin(self, *, afresh: bool) -> Mapping[str, str]:
        """Load what an unfinished run saved; `afresh` deletes it instead.

        Returns:
            The fields that it saved; none if there is no unfinished run.

        Raises:
            IndexFailedError: the server did not answer, or refused.
        """
        try:
            (reply,) = (None,) if afresh else await run_reads(self.server.link, [("HGETALL", self._key)])
        except KeyRefusedError as error:
            raise for_operators(error) from None
        fields = {_text(name): _text(value) for name, value in as_map(reply).items()}
        run = fields.pop(_RUN_FIELD, "")
        if _RUN.fullmatch(run):
            self.run, self.resumed = run, True
            return fields
        if reply is None or reply:  # deleted on request, or not of our making
            await self.end()
        return {}

    async def restart(self) -> None:
        """Delete what the unfinished run saved, and begin a run of our own."""
        self.run, self.resumed = self._own_run, False
        await self.end()

    async def save(self, fields: Mapping[str, str], *, also: Sequence[Command] = ()) -> None:
        """Save fields, and run other commands that write, in one round trip.

        Raises:
            IndexFailedError: the server did not answer, or refused.
        """
        pairs = [text for item in fields.items() for text in item]
        await run_writes(
            self.server.link,
            [
                ("HSET", self._key, _RUN_FIELD, self.run, *pairs),
                ("EXPIRE", self._key, CHECKPOINT_SECONDS),
                *also,
            ],
        )

    async def end(self, *others: str) -> None:
        """Delete it, and other keys: the work is finished."""
        await run_writes(self.server.link, [("DEL", key) for key in (self._key, *others)])


def _text(value: bytes) -> str:
    return value.decode("ascii", "replace")
