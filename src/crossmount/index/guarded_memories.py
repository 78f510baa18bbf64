"""The guarded methods of the optional abilities of an index: deletions and denials."""

from abc import abstractmethod
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from crossmount.index.deletions import RemembersDeletions
from crossmount.index.denials import RemembersDenials, look_up_as
from crossmount.index.protocol import Knowledge, MountIndex
from crossmount.oci import Digest, Located

T = TypeVar("T")


class GuardedMemories:
    """Base class of the guard: what an index may remember beside sources, if it can."""

    _index: MountIndex

    @abstractmethod
    async def _try(self, call: Callable[[], Awaitable[T]], otherwise: T) -> T:
        """Return the result of `call`, or `otherwise` if the index fails."""

    async def look_up_with_deletions(self, layers: Iterable[Digest], dest: Located) -> Knowledge:
        """Return the answer of the index; an empty one if it fails, one without deletions if it keeps none."""
        index = self._index
        look_up = index.look_up_with_deletions if isinstance(index, RemembersDeletions) else index.look_up
        return await self._try(lambda: look_up(layers, dest), Knowledge())

    async def look_up_as(self, layers: Iterable[Digest], dest: Located, account: str) -> Knowledge:
        """Return the answer of the index; an empty one if it fails, one without denials if it keeps none."""
        return await self._try(lambda: look_up_as(self._index, layers, dest, account), Knowledge())

    async def record_denied(self, registry: str, account: str, repositories: Iterable[Located]) -> None:
        """Remember what an account may not read; do nothing if the index fails or keeps none."""
        index = self._index
        if isinstance(index, RemembersDenials):
            await self._try(lambda: index.record_denied(registry, account, repositories), None)

    async def record_deletion(self, layer: Digest, repository: Located) -> None:
        """Remember a deletion, or at least forget the source; do nothing if the index fails."""
        index = self._index
        record = index.record_deletion if isinstance(index, RemembersDeletions) else index.forget
        await self._try(lambda: record(layer, repository), None)

    async def clear_deletion(self, layer: Digest, repository: Located) -> None:
        """Forget a deletion; do nothing if the index fails or keeps none."""
        index = self._index
        if isinstance(index, RemembersDeletions):
            await self._try(lambda: index.clear_deletion(layer, repository), None)
