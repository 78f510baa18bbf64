"""An index that is asked until it serves: for work in the background, which may wait and must not be lost."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TypeVar

from crossmount.discovery.manifest_cache import ManifestCache
from crossmount.discovery.manifest_summary import ManifestSummary
from crossmount.errors import IndexUnavailableError
from crossmount.index.guard import GuardedIndex
from crossmount.oci import Digest
from crossmount.redis.link import StartingError

AGAIN_SECONDS = 1.0
"""How long work waits before it asks again whether the index serves; the breaker decides when a call is made."""

T = TypeVar("T")


class IndexWaiter:
    """Holds work while the index gives no answer. What the index refuses is not held: it would be refused again.

    Args:
        guard: knows when the index is to be left alone.
    """

    def __init__(self, guard: GuardedIndex) -> None:
        self._guard = guard
        self._held = 0

    @property
    def holds(self) -> bool:
        """Whether the index is known not to answer, so that more work would only wait."""
        return self._held > 0 or self._guard.left_alone

    async def ask(self, call: Callable[[], Awaitable[T]]) -> T:
        """Ask until it is answered; `call` may be carried out more than once.

        Raises:
            IndexRefusedError: the index answered no.
            MissingExtraError: there is no server to be started.
        """
        held = False
        try:
            while True:
                try:
                    return await self._guard.ask(call)
                except (IndexUnavailableError, StartingError):
                    self._held += not held
                    held = True
                await asyncio.sleep(AGAIN_SECONDS)
        finally:
            self._held -= held


class WaitingManifestCache:
    """A memory on the server of an index that is asked until it serves.

    Args:
        memory: the memory.
        hold: holds who asks it.
    """

    def __init__(self, memory: ManifestCache, hold: IndexWaiter) -> None:
        self._memory = memory
        self._hold = hold

    async def recall(self, digests: Iterable[Digest]) -> Mapping[Digest, ManifestSummary]:
        """See `Memory`."""
        wanted = list(digests)
        return await self._hold.ask(lambda: self._memory.recall(wanted))

    async def keep(self, outlines: Iterable[ManifestSummary]) -> None:
        """See `Memory`."""
        kept = list(outlines)
        await self._hold.ask(lambda: self._memory.keep(kept))
