"""What an index in Redis excludes for a while, as sets that expire: see `crossmount.index.exclusions`."""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from crossmount.index.aliases import RegistryNames
from crossmount.index.exclusions import DELETION_SECONDS, DELETIONS_MAX, DENIAL_SECONDS, DENIALS_MAX, is_account
from crossmount.index.keys import Keys
from crossmount.oci import Digest, Located
from crossmount.oci.reference import normalise_registry
from crossmount.redis.replies import Command
from crossmount.redis.scripts import Script, load_script


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
