"""Deletions that clients made through a proxy: a deleted layer is not mounted again unless a client asks for it.

A proxy answers a HEAD with a mount where it can. After a deletion that would bring the layer back although nobody
pushes it. So an index remembers the deletion for a day, for all proxies, or until a client begins to bring the
layer back. A push needs none of this, so deletions are read with `look_up_with_deletions` alone.
"""

from collections import OrderedDict
from collections.abc import Iterable
from typing import Protocol, runtime_checkable

from crossmount.index.protocol import Knowledge
from crossmount.oci import Digest, Located, Repository

DELETION_SECONDS = 24 * 3600
DELETIONS_MAX = 1024
"""The most repositories of one layer on one registry whose deletion is remembered."""


@runtime_checkable
class RemembersDeletions(Protocol):
    """An index that remembers deletions. A user's own index need not."""

    async def look_up_with_deletions(self, layers: Iterable[Digest], dest: Located) -> Knowledge:
        """Return the result of `look_up`, and in the same round trip which layers were deleted from dest."""
        ...

    async def record_deletion(self, layer: Digest, repository: Located) -> None:
        """Remember that a client deleted `layer` from a repository, and forget the repository as a source."""
        ...

    async def clear_deletion(self, layer: Digest, repository: Located) -> None:
        """Forget the deletion: a client started to push `layer` into the repository again."""
        ...


class LocalDeletions:
    """The deletions that one process remembers; beyond the limit the oldest is dropped.

    Args:
        limit: the most deletions.
    """

    def __init__(self, *, limit: int = 65536) -> None:
        self._limit = limit
        self._until: OrderedDict[tuple[Digest, Repository], float] = OrderedDict()

    def add(self, layer: Digest, repository: Repository, now: float) -> None:
        """Remember a deletion."""
        self._until[layer, repository] = now + DELETION_SECONDS
        self._until.move_to_end((layer, repository))
        while len(self._until) > self._limit:
            self._until.popitem(last=False)

    def remove(self, layer: Digest, repository: Repository) -> None:
        """Forget a deletion."""
        self._until.pop((layer, repository), None)

    def has(self, layer: Digest, repository: Repository, now: float) -> bool:
        """Return whether a deletion is remembered."""
        return self._until.get((layer, repository), now) > now
