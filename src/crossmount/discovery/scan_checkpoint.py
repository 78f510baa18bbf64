"""How far a scan is, stored beside the index, so that a scan that was killed is resumed.

Stored are the repositories that an unfinished scan has finished, and the finished tags of repositories in
progress. The names of these sets contain the run, so deleting the checkpoint alone makes all of them obsolete.
"""

from collections.abc import Iterable, Mapping, Sequence

from crossmount.index.backing_server import BackingServer
from crossmount.index.checkpoint import CHECKPOINT_SECONDS, Checkpoint, scope_of
from crossmount.oci import Repository
from crossmount.redis.execute import run_reads
from crossmount.redis.replies import Command


class ScanCheckpoint:
    """The checkpoint of one scan. Without a server it stores nothing: such an index ends with its process.

    Args:
        server: the server of the index, if it has one.
        registry: the registry, normalised.
        choice: what sets this scan apart from other scans of the registry.
        run: 16 hex digits that identify this scan, unless it resumes an earlier one.
    """

    def __init__(self, server: BackingServer | None, registry: str, choice: Iterable[str], *, run: str) -> None:
        self._stored = None
        if server is not None:
            self._stored = Checkpoint(server, server.keys.scan(registry, scope_of(sorted(choice))), run=run)

    async def begin(self, *, afresh: bool) -> bool:
        """Begin, and return whether an unfinished scan is resumed; `afresh` deletes its checkpoint instead."""
        if self._stored is None:
            return False
        await self._stored.begin(afresh=afresh)
        return self._stored.resumed

    async def unfinished(self, repositories: Sequence[Repository]) -> list[Repository]:
        """Return the repositories that are not finished, in one round trip."""
        if self._stored is None:
            return list(repositories)
        key = self._stored.server.keys.scan_done(self._stored.run)
        done = await _members(self._stored, key, [repository.name for repository in repositories])
        return [repository for repository, is_done in zip(repositories, done, strict=True) if not is_done]

    async def unfinished_tags(self, repository: Repository, tags: Sequence[str]) -> list[str]:
        """Return the tags that are not finished, in one round trip."""
        if self._stored is None:
            return list(tags)
        key = self._stored.server.keys.scan_tags(repository, self._stored.run)
        done = await _members(self._stored, key, tags)
        return [tag for tag, is_done in zip(tags, done, strict=True) if not is_done]

    async def save(self, done: Iterable[Repository], tags: Mapping[Repository, Iterable[str]]) -> None:
        """Save what is finished, in one round trip."""
        if self._stored is None:
            return
        keys, run, finished = self._stored.server.keys, self._stored.run, list(done)
        commands: list[Command] = []
        for repository, some in tags.items():
            commands += _add(keys.scan_tags(repository, run), some)
        commands += [("DEL", keys.scan_tags(repository, run)) for repository in finished]
        if finished:
            commands += _add(keys.scan_done(run), [repository.name for repository in finished])
        await self._stored.save({}, also=commands)

    async def end(self) -> None:
        """Delete it: the scan is finished."""
        if self._stored is not None:
            await self._stored.end(self._stored.server.keys.scan_done(self._stored.run))


async def _members(stored: Checkpoint, key: str, names: Sequence[str]) -> list[bool]:
    (reply,) = await run_reads(stored.server.link, [("SMISMEMBER", key, *names)])
    if isinstance(reply, list) and len(reply) == len(names):
        return [each == 1 for each in reply]
    return [False] * len(names)


def _add(key: str, names: Iterable[str]) -> list[Command]:
    return [("SADD", key, *names), ("EXPIRE", key, CHECKPOINT_SECONDS)]
