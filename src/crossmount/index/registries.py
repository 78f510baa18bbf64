"""What an index has recorded of registries: their traits, and the pairs of names that it shares. For operators."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from crossmount._dataclass import dataclass
from crossmount.errors import IndexFailedError, InvalidInputError
from crossmount.index.aliases import SHARED_MAX, SameRegistries, parse_pair, registry_names_of
from crossmount.index.decode import TRAITS_SECONDS, as_map
from crossmount.index.keys import SCANNED_SECONDS
from crossmount.index.protocol import BackingServer, MountIndex, RegistryTraits, backing_server
from crossmount.oci import Repository
from crossmount.oci.reference import normalise_registry
from crossmount.redis.replies import Command


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedTraits:
    """The traits that an index has recorded of a registry.

    Attributes:
        registry: the name that was asked for, normalised.
        names: the registry's names: first the one that the index uses.
        seconds_left: until the traits expire; None if there are none, or the index has no server.
    """

    registry: str
    names: tuple[str, ...]
    traits: RegistryTraits
    seconds_left: int | None = None

    @property
    def age(self) -> int | None:
        """How many seconds ago the newest trait was recorded."""
        return None if self.seconds_left is None else max(0, TRAITS_SECONDS - self.seconds_left)


@runtime_checkable
class HasLocalTraits(Protocol):
    """An index that may have traits of registries in this process."""

    def drop_traits(self, registry: str) -> None:
        """Forget the traits of a registry, by any of its names."""
        ...


async def recorded_traits(index: MountIndex, registry: str) -> RecordedTraits:
    """Return the traits that an index has recorded of a registry.

    Raises:
        InvalidInputError: it is not the name of a registry.
        IndexFailedError: the index does not answer, or refuses.
    """
    name = normalise_registry(registry)
    traits = (await index.look_up([], Repository.on(name))).traits  # also learns the shared names
    names = registry_names_of(index).of(name)
    server = backing_server(index)
    if server is None or traits == RegistryTraits():
        return RecordedTraits(registry=name, names=names, traits=traits)
    lives = await _run(server, [("TTL", server.keys.traits(each)) for each in names])
    left = max((life for life in lives if isinstance(life, int)), default=0)
    return RecordedTraits(registry=name, names=names, traits=traits, seconds_left=max(left, 0))


async def last_scans(server: BackingServer, registries: Sequence[str]) -> Mapping[str, int]:
    """Return how many seconds ago the last scan of each registry was finished, for those that were scanned.

    Raises:
        IndexFailedError: the index does not answer, or refuses.
    """
    lives = await _run(server, [("TTL", server.keys.scanned(server.names.canonical(each))) for each in registries])
    return {
        registry: max(SCANNED_SECONDS - life, 0)
        for registry, life in zip(registries, lives, strict=True)
        if isinstance(life, int) and life > 0
    }


def drop_local_traits(index: object, registry: str) -> None:
    """Forget the traits of a registry that an index has in this process, if it has any."""
    if isinstance(index, HasLocalTraits):
        index.drop_traits(registry)


async def forget_traits(index: MountIndex, registry: str) -> None:
    """Forget the traits of a registry, under all its names and for all users of the index.

    Raises:
        InvalidInputError: it is not the name of a registry.
        IndexFailedError: the index does not answer, or refuses.
    """
    names = (await recorded_traits(index, registry)).names
    drop_local_traits(index, names[0])
    if (server := backing_server(index)) is not None:
        await _run(server, [("DEL", server.keys.traits(each)) for each in names])


async def shared_pairs(server: BackingServer) -> SameRegistries:
    """Read the pairs of names that are one registry for all users of an index."""
    return SameRegistries.from_fields(await _shared_fields(server))


async def _shared_fields(server: BackingServer) -> Mapping[bytes, bytes]:
    (fields,) = await _run(server, [("HGETALL", server.keys.same_registry())])
    return as_map(fields)


async def share_pair(server: BackingServer, pair: str) -> None:
    """Add a pair `A=B` for all users of an index; it replaces another pair of A.

    Raises:
        InvalidInputError: it is not a pair of two names, or the index has too many pairs.
        IndexFailedError: the index does not answer, or refuses.
    """
    name, other = parse_pair(pair)
    if name == other:
        raise InvalidInputError(f"not two names of a registry: {pair[:200]!r} names {name} twice: give A=B")
    known = await _shared_fields(server)
    if len(known) >= SHARED_MAX and name.encode() not in known:
        raise InvalidInputError(f"too many pairs: the index shares {SHARED_MAX} already: remove one with --remove")
    await _run(server, [("HSET", server.keys.same_registry(), name, other)])


async def unshare_pair(server: BackingServer, pair: str) -> bool:
    """Remove the pair `A=B`, which may be named by A alone; return whether the index had it."""
    name = normalise_registry(pair.partition("=")[0].strip())
    (removed,) = await _run(server, [("HDEL", server.keys.same_registry(), name)])
    return bool(removed == 1)


async def _run(server: BackingServer, commands: list[Command]) -> list[Any]:
    replies = await server.link.run(commands)
    for reply in replies:
        if isinstance(reply, IndexFailedError):
            raise reply
    return replies
