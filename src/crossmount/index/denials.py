"""Repositories that an account may not read: whoever comes with the same account need not ask again for an hour.

The account is named by a digest (`registry.auth.authorization`). It says nothing about the account, and is
hard to guess without the credential. Like all of an index this is a hint: a source that is denied here is not
tried, so the worst that a wrong entry costs is an upload within that hour.
"""

import re
from collections import OrderedDict
from collections.abc import Iterable
from typing import Protocol, runtime_checkable

from crossmount.index.protocol import Knowledge, MountIndex
from crossmount.oci import Digest, Located, Repository

DENIAL_SECONDS = 3600
DENIALS_MAX = 512
"""The most repositories of one registry that are remembered for an account."""

_ACCOUNT = re.compile(r"[0-9a-f]{1,64}")


@runtime_checkable
class RemembersDenials(Protocol):
    """An index that remembers what accounts may not read. A user's own index need not."""

    async def look_up_as(self, layers: Iterable[Digest], dest: Located, account: str) -> Knowledge:
        """Do the same as `look_up`, in the same round trip, and read also what the account may not read."""
        ...

    async def record_denied(self, registry: str, account: str, repositories: Iterable[Located]) -> None:
        """Remember repositories of a registry that the account may not read."""
        ...


async def look_up_as(index: MountIndex, layers: Iterable[Digest], dest: Located, account: str | None) -> Knowledge:
    """Look layers up for an account, as far as the index can; None is an unknown account."""
    if account is not None and isinstance(index, RemembersDenials):
        return await index.look_up_as(layers, dest, account)
    return await index.look_up(layers, dest)


def is_account(text: str) -> bool:
    """Return whether `text` can name an account in a key."""
    return _ACCOUNT.fullmatch(text) is not None


class LocalDenials:
    """The denials that one process remembers, bounded: the oldest makes way.

    Args:
        limit: the most denials.
    """

    def __init__(self, *, limit: int = 65536) -> None:
        self._limit = limit
        self._until: OrderedDict[tuple[str, Repository], float] = OrderedDict()

    def add(self, account: str, repository: Repository, now: float) -> None:
        """Remember a denial."""
        self._until[account, repository] = now + DENIAL_SECONDS
        self._until.move_to_end((account, repository))
        while len(self._until) > self._limit:
            self._until.popitem(last=False)

    def of(self, account: str, registry: str, now: float) -> frozenset[Repository]:
        """Return the repositories of a registry that the account may not read."""
        return frozenset(
            repository
            for (owner, repository), until in self._until.items()
            if owner == account and repository.registry == registry and until > now
        )
