"""What an index in memory remembers beside sources: deletions and denials."""

import threading
from abc import abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import replace

from crossmount.index.adapt import SingleLayerMethods
from crossmount.index.deletions import LocalDeletions
from crossmount.index.denials import LocalDenials, is_account
from crossmount.index.protocol import Knowledge
from crossmount.oci import Digest, Located, Repository


class LocalMemories(SingleLayerMethods):
    """Base class of the index in memory.

    Args:
        clock: epoch seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._deletions = LocalDeletions()
        self._denials = LocalDenials()

    @abstractmethod
    def _kept(self, repository: Located) -> Repository:
        """Return a repository under the name of its registry that the index keeps."""

    @abstractmethod
    async def forget(self, layer: Digest, *sources: Located) -> None:
        """Remove repositories as sources of `layer`."""

    def _denied(self, account: str | None, dest: Repository) -> frozenset[Repository]:
        denied = self._denials.of(account or "", self._kept(dest).registry, self._clock())
        return frozenset(dest.sibling(each.name) for each in denied)

    async def record_denied(self, registry: str, account: str, repositories: Iterable[Located]) -> None:
        """Remember for an hour what an account may not read."""
        del registry
        if not is_account(account):
            return
        with self._lock:
            for each in repositories:
                self._denials.add(account, self._kept(each.repository), self._clock())

    async def look_up_with_deletions(self, layers: Iterable[Digest], dest: Located) -> Knowledge:
        """Do the same, and say which of the layers were deleted from dest."""
        repository, wanted = dest.repository, list(dict.fromkeys(layers))
        known = await self.look_up(wanted, dest)
        with self._lock:
            now = self._clock()
            gone = {layer for layer in wanted if self._deletions.has(layer, self._kept(repository), now)}
        found = {layer: replace(known.of(layer), deleted=layer in gone) for layer in wanted}
        return replace(known, layers=found)

    async def record_deletion(self, layer: Digest, repository: Located) -> None:
        """Remember a deletion for a day, and forget the source."""
        with self._lock:
            self._deletions.add(layer, self._kept(repository), self._clock())
        await self.forget(layer, repository)

    async def clear_deletion(self, layer: Digest, repository: Located) -> None:
        """Forget a deletion."""
        with self._lock:
            self._deletions.remove(layer, self._kept(repository))
