"""How far a scan is, kept beside the index: one that was killed goes on where it was.

On the index's server and not in a file, since what is done is done for that index only, wherever the scan goes on.
Kept are the repositories that an unfinished scan is done with, and the tags done in those it was in the middle of.
They are kept under a name of that scan alone, so that to forget the name is to forget them all.
"""

import hashlib
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from crossmount.index.backing_server import Server, server_of
from crossmount.oci import Repository
from crossmount.redis.execute import write
from crossmount.redis.link import Command

PROGRESS_SECONDS = 24 * 3600
"""For how long a scan can be gone on with: what was done earlier than that may have changed."""


_RUN = re.compile(rb"[0-9a-f]{16}")


class ScanCheckpoint(Protocol):
    """What a scan is done with."""

    async def begin(self, *, afresh: bool) -> bool:
        """Begin, and tell whether an earlier scan was not finished; `afresh` forgets it."""
        ...

    async def left(self, repositories: Sequence[Repository]) -> list[Repository]:
        """Return the repositories that are not done, in one round trip."""
        ...

    async def left_tags(self, repository: Repository, tags: Sequence[str]) -> list[str]:
        """Return the tags that are not done, in one round trip."""
        ...

    async def note(self, done: Iterable[Repository], tags: Mapping[Repository, Iterable[str]]) -> None:
        """Keep in mind what is done, in one round trip."""
        ...

    async def end(self) -> None:
        """Forget it all: the scan is finished."""
        ...


def progress_of(index: object, registry: str, asked: Iterable[str]) -> ScanCheckpoint:
    """Return the progress of a scan; without a server, progress is not kept.

    Args:
        index: what the scan fills.
        registry: the registry, normalised.
        asked: what sets this scan apart from others of the registry.
    """
    server = server_of(index)
    if server is None:
        return NoProgress()
    scope = hashlib.sha256("\0".join(sorted(asked)).encode()).hexdigest()[:16]
    return ServerProgress(server, registry, scope, run=secrets.token_hex(8))


class NoProgress:
    """Keeps nothing: where the index ends with the process, so does what was done."""

    async def begin(self, *, afresh: bool) -> bool:
        """See `Progress`."""
        del afresh
        return False

    async def left(self, repositories: Sequence[Repository]) -> list[Repository]:
        """See `Progress`."""
        return list(repositories)

    async def left_tags(self, repository: Repository, tags: Sequence[str]) -> list[str]:
        """See `Progress`."""
        del repository
        return list(tags)

    async def note(self, done: Iterable[Repository], tags: Mapping[Repository, Iterable[str]]) -> None:
        """See `Progress`."""

    async def end(self) -> None:
        """See `Progress`."""


class ServerProgress:
    """Progress on the server of an index.

    Args:
        server: the server.
        registry: the registry, normalised.
        scope: what sets this scan apart from others of the registry.
        run: names this scan unless an earlier one is gone on with; 16 hex digits.
    """

    def __init__(self, server: Server, registry: str, scope: str, *, run: str) -> None:
        self._link = server.link
        self._keys = server.keys
        self._name = server.keys.scan(registry, scope)
        self._run = run

    async def begin(self, *, afresh: bool) -> bool:
        """See `Progress`."""
        if afresh:
            await write(self._link, [("DEL", self._name)])
            return False
        (there,) = await self._link.run([("GETRANGE", self._name, 0, 16)])
        resumes = isinstance(there, bytes) and _RUN.fullmatch(there) is not None
        if resumes:
            self._run = there.decode()
        return resumes

    async def left(self, repositories: Sequence[Repository]) -> list[Repository]:
        """See `Progress`."""
        done = await self._members(self._keys.scan_done(self._run), [one.name for one in repositories])
        return [repository for repository, is_done in zip(repositories, done, strict=True) if not is_done]

    async def left_tags(self, repository: Repository, tags: Sequence[str]) -> list[str]:
        """See `Progress`."""
        done = await self._members(self._keys.scan_tags(repository, self._run), tags)
        return [tag for tag, is_done in zip(tags, done, strict=True) if not is_done]

    async def note(self, done: Iterable[Repository], tags: Mapping[Repository, Iterable[str]]) -> None:
        """See `Progress`."""
        finished = list(done)
        commands: list[Command] = [("SET", self._name, self._run, "EX", PROGRESS_SECONDS)]
        for repository, some in tags.items():
            commands += _add(self._keys.scan_tags(repository, self._run), some)
        commands += [("DEL", self._keys.scan_tags(repository, self._run)) for repository in finished]
        if finished:
            commands += _add(self._keys.scan_done(self._run), [repository.name for repository in finished])
        await write(self._link, commands)

    async def end(self) -> None:
        """See `Progress`."""
        await write(self._link, [("DEL", self._name), ("DEL", self._keys.scan_done(self._run))])

    async def _members(self, key: str, names: Sequence[str]) -> list[bool]:
        (reply,) = await self._link.run([("SMISMEMBER", key, *names)])
        if isinstance(reply, list) and len(reply) == len(names):
            return [each == 1 for each in reply]
        return [False] * len(names)


def _add(key: str, names: Iterable[str]) -> list[Command]:
    return [("SADD", key, *names), ("EXPIRE", key, PROGRESS_SECONDS)]
