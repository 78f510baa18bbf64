"""What an index excludes for a while: layers that a client deleted, and repositories that an account may not read.

Deletions: a proxy answers a HEAD with a mount where it can. After a deletion that would restore the layer although
no client pushes it. So an index remembers a deletion for a day, for all proxies, or until a client starts to push
the layer again. A push needs none of this, so a look-up reads deletions only on request.

Denials: an account is named by a digest (`account_digest`), which is hard to guess without the credential and
reveals nothing. A denied source is not tried for an hour. Like all of an index this is a hint: the worst that a
wrong entry costs is an upload within that hour.
"""

import re
import threading
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar, runtime_checkable

from crossmount._expiring import ExpiringSet
from crossmount.index.adapt import SingleLayerMethods
from crossmount.index.aliases import RegistryNames
from crossmount.index.keys import Keys
from crossmount.index.protocol import Knowledge, MountIndex
from crossmount.oci import Digest, Located, Repository, as_digests, as_repository
from crossmount.oci.reference import normalise_registry
from crossmount.redis.replies import Command
from crossmount.redis.scripts import Script, load_script

T = TypeVar("T")

DENIAL_SECONDS = 3600
DENIALS_MAX = 512
"""The most repositories of one registry that are remembered for an account."""

_ACCOUNT = re.compile(r"[0-9a-f]{1,64}")

DELETION_SECONDS = 24 * 3600
DELETIONS_MAX = 1024
"""The most repositories of one layer on one registry whose deletion is remembered."""


@runtime_checkable
class RemembersDeletions(Protocol):
    """An index that remembers deletions. A user's own index need not."""

    async def look_up(self, layers: Iterable[Digest], dest: Located, *, deletions: bool = False) -> Knowledge:
        """Look layers up, and on request which of them were deleted from dest."""
        ...

    async def record_deletion(self, layer: Digest, repository: Located) -> None:
        """Remember that a client deleted `layer` from a repository, and forget the repository as a source."""
        ...

    async def clear_deletion(self, layer: Digest, repository: Located) -> None:
        """Forget the deletion: a client started to push `layer` into the repository again."""
        ...


@runtime_checkable
class RemembersDenials(Protocol):
    """An index that remembers what accounts may not read. A user's own index need not."""

    async def look_up(self, layers: Iterable[Digest], dest: Located, *, account: str | None = None) -> Knowledge:
        """Look layers up, and with an account what that one may not read."""
        ...

    async def record_denied(self, registry: str, account: str, repositories: Iterable[Located]) -> None:
        """Remember repositories of a registry that the account may not read."""
        ...


async def look_up_excluding(
    index: MountIndex,
    layers: Iterable[Digest],
    dest: Located,
    *,
    account: str | None = None,
    deletions: bool = False,
) -> Knowledge:
    """Look layers up with what an index excludes, as far as it remembers that.

    Args:
        index: the index.
        layers: the layers.
        dest: the destination.
        account: for whom to read denials; None is an unknown account.
        deletions: whether to read which layers were deleted from dest.
    """
    options: dict[str, Any] = {}
    if account is not None and isinstance(index, RemembersDenials):
        options["account"] = account
    if deletions and isinstance(index, RemembersDeletions):
        options["deletions"] = True
    return await index.look_up(layers, dest, **options)


def is_account(text: str) -> bool:
    """Return whether `text` can name an account in a key."""
    return _ACCOUNT.fullmatch(text) is not None


class LocalExclusions(SingleLayerMethods):
    """Base class of the index in memory: its deletions and denials.

    Args:
        clock: epoch seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._deletions: ExpiringSet[tuple[Digest, Repository]] = ExpiringSet(DELETION_SECONDS, clock=clock)
        self._denials: ExpiringSet[tuple[str, Repository]] = ExpiringSet(DENIAL_SECONDS, clock=clock)

    @abstractmethod
    def _canonical(self, place: Located) -> Repository:
        """Return a repository by the canonical name of its registry."""

    @abstractmethod
    async def forget(self, layer: Digest, *sources: Located) -> None:
        """Remove repositories as sources of `layer`."""

    def _denied(self, account: str | None, dest: Repository) -> frozenset[Repository]:
        registry = self._canonical(dest).registry
        denied = (each for owner, each in self._denials if owner == account)
        return frozenset(dest.sibling(each.name) for each in denied if each.registry == registry)

    async def record_denied(self, registry: str, account: str, repositories: Iterable[Located]) -> None:
        """Remember for an hour what an account may not read."""
        del registry
        if not is_account(account):
            return
        with self._lock:
            for each in repositories:
                self._denials.add((account, self._canonical(each)))

    def _deleted(self, layers: Iterable[Digest], dest: Repository) -> set[Digest]:
        here = self._canonical(dest)
        return {layer for layer in layers if (layer, here) in self._deletions}

    async def record_deletion(self, layer: Digest, repository: Located) -> None:
        """Remember a deletion for a day, and forget the source."""
        with self._lock:
            self._deletions.add((layer, self._canonical(repository)))
        await self.forget(layer, repository)

    async def clear_deletion(self, layer: Digest, repository: Located) -> None:
        """Forget a deletion."""
        with self._lock:
            self._deletions.remove((layer, self._canonical(repository)))


class GuardedExclusions:
    """Base class of the guard: deletions and denials, for indexes that remember them."""

    _index: MountIndex

    @abstractmethod
    async def _try(self, call: Callable[[], Awaitable[T]], otherwise: T) -> T:
        """Return the result of `call`, or `otherwise` if the index fails."""

    @abstractmethod
    async def _try_read(self, call: Callable[[], Awaitable[T]], otherwise: T) -> T:
        """Do the same with a call that only reads."""

    async def look_up(
        self, layers: Iterable[str], dest: str | Located, *, account: str | None = None, deletions: bool = False
    ) -> Knowledge:
        """Return what the index knows and excludes, as far as it remembers that; nothing if it fails."""
        digests, place = as_digests(layers), as_repository(dest)
        look_up = partial(look_up_excluding, self._index, digests, place, account=account, deletions=deletions)
        return await self._try_read(look_up, Knowledge())

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


class RedisExclusions:
    """Base class of the index in Redis: the methods that write deletions and denials."""

    _keys: Keys
    _names: RegistryNames

    @abstractmethod
    async def _write(self, make: Callable[[], list[Command]]) -> list[Any]:
        """Run commands that write."""

    @abstractmethod
    def _forget_all(self, layer: Digest, sources: Iterable[Located]) -> Sequence[Command]:
        """Return the commands that remove sources of a layer."""

    async def record_denied(self, registry: str, account: str, repositories: Iterable[Located]) -> None:
        """Remember for at most an hour what an account may not read."""
        names = sorted({each.repository.name for each in repositories})[:DENIALS_MAX]
        if names and is_account(account):
            name, record = normalise_registry(registry), _script("record_denied")

            def make() -> list[Command]:
                key = self._keys.denied(self._names.canonical(name), account)
                return [record.call((key,), DENIAL_SECONDS, DENIALS_MAX, *names)]

            await self._write(make)

    async def record_deletion(self, layer: Digest, repository: Located) -> None:
        """Remember a deletion for a day, and forget the source."""
        remember, name = _script("record_deletion"), repository.repository.name
        await self._write(
            lambda: [
                remember.call(
                    (self._deleted(layer, repository),),
                    name,
                    DELETION_SECONDS,
                    DELETIONS_MAX,
                ),
                *self._forget_all(layer, [repository]),
            ],
        )

    async def clear_deletion(self, layer: Digest, repository: Located) -> None:
        """Forget a deletion."""
        await self._write(lambda: [("SREM", self._deleted(layer, repository), repository.repository.name)])

    def _deleted(self, layer: Digest, repository: Located) -> str:
        return self._keys.deleted(layer, self._names.canonical(repository.repository.registry))


def _script(name: str) -> Script:
    return load_script(name, "crossmount.index")
