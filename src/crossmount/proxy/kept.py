"""Leases kept until a manifest, on a registry that mounts a layer only once a manifest references it (ECR).

A client that pushes several layers has leases here while others of its uploads may wait. So that two clients never
wait for each other in a circle, a repository that keeps a lease does not wait: what it waits for when it comes to
keep one is uploaded without more waiting. Every chain of those who wait so ends at an upload that runs, or at a
push that waits for nobody.
"""

import asyncio
from collections.abc import Callable, Collection, Coroutine
from typing import Any, TypeVar

from crossmount.fleet import Upload
from crossmount.oci import Digest, Repository

QUIET_SECONDS = 30.0
"""After how long without anything going on a push is thought to be given up."""

T = TypeVar("T")


class KeptTurns:
    """The leases that wait for a manifest, and who must not wait because of them.

    Args:
        clock: seconds, from any start.
    """

    def __init__(self, *, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._turns: dict[Repository, dict[Digest, tuple[Upload, float]]] = {}
        self._waits: dict[Repository, set[asyncio.Task[Any]]] = {}

    async def unless_kept(self, dest: Repository, wait: Callable[[], Coroutine[Any, Any, T]]) -> T | None:
        """Wait on behalf of an upload into `dest`; None if that keeps a lease, or comes to keep one meanwhile."""
        if dest in self._turns:
            return None
        task = asyncio.create_task(wait())
        waits = self._waits.setdefault(dest, set())
        waits.add(task)
        try:
            await asyncio.wait([task])
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            waits.discard(task)
            if not waits:
                self._waits.pop(dest, None)
        return None if task.cancelled() else task.result()

    def keep(self, dest: Repository, digest: Digest, turn: Upload) -> None:
        """Keep the lease of a blob that was uploaded; whatever `dest` waits for, it waits no more."""
        self._turns.setdefault(dest, {})[digest] = turn, self._clock()
        for task in self._waits.get(dest, ()):
            task.cancel()

    def take(self, dest: Repository, digests: Collection[Digest]) -> list[Upload]:
        """Take out the leases of blobs that a manifest in `dest` references."""
        turns = self._turns.get(dest, {})
        taken = [turns.pop(digest)[0] for digest in digests if digest in turns]
        if not turns:
            self._turns.pop(dest, None)
        return taken

    def take_quiet(self, busy: Callable[[str], bool]) -> list[Upload]:
        """Take out the leases that have waited for long, of repositories in which nothing goes on."""
        until = self._clock() - QUIET_SECONDS
        return [
            turn
            for dest, turns in list(self._turns.items())
            if not busy(dest.name)
            for turn in self.take(dest, [digest for digest, (_, since) in turns.items() if since < until])
        ]

    def take_all(self) -> list[Upload]:
        """Take out all leases."""
        return [turn for dest, turns in list(self._turns.items()) for turn in self.take(dest, list(turns))]
