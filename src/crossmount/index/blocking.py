"""The blocking index: the asynchronous classes, over links that never suspend, run without an event loop.

The other way round, `inline` and `threaded` make an asynchronous index of a user's blocking one.
"""

import asyncio
import functools
import random
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, Concatenate, Literal, ParamSpec, Protocol, TypeVar, cast, runtime_checkable

from redis.credentials import CredentialProvider

from crossmount import events
from crossmount._blocking import BlockingClosing, Driven, documented_as, driven, run_now
from crossmount.errors import InvalidInputError
from crossmount.index import guard, memory, opening, protocol
from crossmount.index import redis_index as redis
from crossmount.index.aliases import NONE_THE_SAME, RegistryNames, SameRegistries, registry_names_of
from crossmount.index.exclusions import RemembersDenials, look_up_excluding
from crossmount.index.keys import Keys
from crossmount.index.protocol import (
    BackingServer,
    Knowledge,
    LayerEntry,
    RegistryTraits,
    Sighting,
    backing_server,
    local_entries_of,
    read_link_of,
)
from crossmount.index.redis_index import SOURCES_MAX, TTL_SECONDS
from crossmount.index.registries import drop_local_traits
from crossmount.oci import Digest, Located, Repository
from crossmount.redis.like import UserClient, client_like
from crossmount.redis.link import BlockingLink, Link, ThreadedLink

P = ParamSpec("P")
T = TypeVar("T")


@runtime_checkable
class MountableLayers(Protocol):
    """The smallest blocking index: the methods that a mount needs to find a source."""

    def add_source(self, layer: Digest, source: Located, *, must_mount: bool = False) -> None:
        """Add a repository that holds `layer`; `must_mount` sets the must-mount flag, and never removes it."""
        ...

    def is_mountable(self, layer: Digest, dest: Located) -> bool:
        """Return whether another repository on dest's registry holds `layer` and dest itself does not."""
        ...

    def must_mount(self, layer: Digest) -> bool:
        """Return whether `layer` may only be mounted."""
        ...

    def sources(self, layer: Digest, dest: Located) -> tuple[Repository, ...]:
        """Return the repositories on dest's registry that hold `layer`, never dest's own, in order of name."""
        ...


@runtime_checkable
class MountIndex(MountableLayers, Protocol):
    """A full blocking index: many layers in one round trip, removal of sources, and traits of registries."""

    def look_up(self, layers: Iterable[Digest], dest: Located) -> Knowledge:
        """Read everything about many layers, and about dest's registry, in one round trip."""
        ...

    def record(self, sightings: Iterable[Sighting]) -> None:
        """Record many sightings in one round trip; each renews the life of its sources."""
        ...

    def forget(self, layer: Digest, *sources: Located) -> None:
        """Remove repositories as sources of `layer`, for all users of the index."""
        ...

    def clear_must_mount(self, layer: Digest) -> None:
        """Remove the must-mount flag of `layer`."""
        ...

    def locations(self, layer: Digest) -> tuple[Repository, ...]:
        """Return every repository, on every registry, that holds `layer`, in order."""
        ...

    def record_traits(self, registry: str, traits: RegistryTraits) -> None:
        """Record the traits of a registry for some hours; `None` leaves the known trait."""
        ...

    def close(self) -> None:
        """Close the connections."""
        ...


class DrivenIndex(Driven[protocol.MountIndex], BlockingClosing):
    """A blocking index over an asynchronous one whose coroutines never suspend."""

    add_source = driven(redis.RedisMountIndex.add_source)
    is_mountable = driven(redis.RedisMountIndex.is_mountable)
    must_mount = driven(redis.RedisMountIndex.must_mount)
    sources = driven(redis.RedisMountIndex.sources)
    look_up = driven(redis.RedisMountIndex.look_up)
    record = driven(redis.RedisMountIndex.record)
    forget = driven(redis.RedisMountIndex.forget)
    clear_must_mount = driven(redis.RedisMountIndex.clear_must_mount)
    locations = driven(redis.RedisMountIndex.locations)
    record_traits = driven(redis.RedisMountIndex.record_traits)
    close = driven(redis.RedisMountIndex.aclose)


@documented_as(redis.RedisMountIndex)
class RedisMountIndex(DrivenIndex):
    """An index on Redis or Valkey, shared by all clients of one server and namespace; its links must block."""

    def __init__(
        self,
        link: Link | UserClient,
        *,
        hints: Link | None = None,
        keys: Keys = Keys(),  # noqa: B008 a frozen value
        ttl: int = TTL_SECONDS,
        bound: int = SOURCES_MAX,
        same: SameRegistries = NONE_THE_SAME,
        clock: Callable[[], float] = time.time,
    ) -> None:
        own = link if isinstance(link, Link) else BlockingLink(client_like(link, asynchronous=False))
        super().__init__(
            redis.RedisMountIndex(own, hints=hints, keys=keys, ttl=ttl, bound=bound, same=same, clock=clock)
        )


@documented_as(memory.MemoryMountIndex)
class MemoryMountIndex(DrivenIndex):
    """An index in this process, alone or over another blocking index."""

    def __init__(
        self,
        backing: MountableLayers | None = None,
        *,
        ttl: int = TTL_SECONDS,
        bound: int = SOURCES_MAX,
        same: SameRegistries = NONE_THE_SAME,
        clock: Callable[[], float] = time.time,
        rng: random.Random | None = None,
    ) -> None:
        below = None if backing is None else inline(backing)
        super().__init__(memory.MemoryMountIndex(below, ttl=ttl, bound=bound, same=same, clock=clock, rng=rng))


@documented_as(guard.GuardedIndex)
class GuardedIndex(DrivenIndex):
    """A blocking index whose calls never fail, for callers that can do without it."""

    def __init__(
        self,
        index: MountableLayers,
        *,
        observer: events.Observer = events.ignore,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._guarded = guard.GuardedIndex(inline(index), observer=observer, clock=clock, deadline=None)
        super().__init__(self._guarded)

    @property
    def state(self) -> Literal["ok", "degraded"]:
        """`ok` as long as no call failed."""
        return self._guarded.state

    @property
    def reason(self) -> str | None:
        """Why the last call failed that did; None as long as none did."""
        return self._guarded.reason


@documented_as(opening.open_index)
def open_index(
    url: str | UserClient | None = None,
    *,
    namespace: str = "default",
    credentials: CredentialProvider | None = None,
    same_registry: Iterable[str] | None = None,
) -> RedisMountIndex | MemoryMountIndex:
    """Open an index for threads."""
    keys, same = Keys(namespace), opening.same_registries(same_registry)
    clients = opening.clients_of(url, credentials, asynchronous=False)
    if not clients:
        return MemoryMountIndex(same=same)
    link, *for_look_ups = map(BlockingLink, clients)
    return RedisMountIndex(link, hints=next(iter(for_look_ups), None), keys=keys, same=same)


def inline(index: MountableLayers) -> protocol.MountableLayers:
    """Return a blocking index as an asynchronous one whose coroutines never suspend."""
    return _adapted(index, _inline)


def threaded(index: MountableLayers) -> protocol.MountableLayers:
    """Return a blocking index as an asynchronous one for event loops, which runs it in threads."""
    return _adapted(index, asyncio.to_thread)


class Run(Protocol):
    """Runs a blocking call as a coroutine."""

    def __call__(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T]:
        """Call the function and return its result."""
        ...


async def _inline(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    return function(*args, **kwargs)


def _adapted(index: MountableLayers, run: Run) -> protocol.MountableLayers:
    if not isinstance(index, MountableLayers):
        raise InvalidInputError(
            f"not an index: {type(index).__name__}: give what open_index(url) returns, or None"
        )
    return AwaitableIndex(index, run) if isinstance(index, MountIndex) else AwaitableLayers(index, run)


Method = Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]


def _awaitable(function: Method[P, T]) -> Method[P, T]:
    """Return a coroutine method that runs the adapted index's blocking method of the same name."""
    name = function.__name__

    @functools.wraps(function)
    async def call(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return cast("T", await self.run(getattr(self.adapted, name), *args, **kwargs))

    return call


class AwaitableLayers:
    """The four methods of a blocking index, awaitable."""

    def __init__(self, layers: MountableLayers, run: Run) -> None:
        self.adapted = layers
        self.run = run

    add_source = _awaitable(protocol.MountableLayers.add_source)
    is_mountable = _awaitable(protocol.MountableLayers.is_mountable)
    must_mount = _awaitable(protocol.MountableLayers.must_mount)
    sources = _awaitable(protocol.MountableLayers.sources)


class AwaitableIndex(AwaitableLayers):
    """A full blocking index, awaitable."""

    def __init__(self, index: MountIndex, run: Run) -> None:
        super().__init__(index, run)
        self._index = index
        self._link: ThreadedLink | None = None

    record = _awaitable(protocol.MountIndex.record)
    forget = _awaitable(protocol.MountIndex.forget)
    clear_must_mount = _awaitable(protocol.MountIndex.clear_must_mount)
    locations = _awaitable(protocol.MountIndex.locations)
    record_traits = _awaitable(protocol.MountIndex.record_traits)

    async def look_up(self, layers: Iterable[Digest], dest: Located, *, account: str | None = None) -> Knowledge:
        """Look layers up, and with an account what that one may not read, if the blocking index remembers that."""
        if isinstance(self._index, DrivenIndex):
            wanted = look_up_excluding(self._index.asynchronous, layers, dest, account=account)
            return await self.run(run_now, wanted)
        return await self.run(self._index.look_up, layers, dest)

    async def record_denied(self, registry: str, account: str, repositories: Iterable[Located]) -> None:
        """Remember what an account may not read, if the blocking index can."""
        index: object = self._index.asynchronous if isinstance(self._index, DrivenIndex) else None
        if isinstance(index, RemembersDenials):
            await self.run(run_now, index.record_denied(registry, account, repositories))

    async def aclose(self) -> None:
        """Close the blocking index."""
        await self.run(self._index.close)

    def server(self) -> BackingServer | None:
        """Return the server of the blocking index; None if it has none."""
        server = backing_server(self._index.asynchronous) if isinstance(self._index, DrivenIndex) else None
        if server is None or not isinstance(server.link, BlockingLink) or self.run is _inline:
            return server
        self._link = self._link or ThreadedLink(server.link.client)
        return BackingServer(self._link, server.keys, server.names)

    def read_link(self) -> Link | None:
        """Return the link of the blocking index's look-ups, if it is not that of all calls."""
        return read_link_of(self._index.asynchronous) if isinstance(self._index, DrivenIndex) else None

    def drop_traits(self, registry: str) -> None:
        """Forget the traits of a registry that the blocking index has in this process."""
        if isinstance(self._index, DrivenIndex):
            drop_local_traits(self._index.asynchronous, registry)

    def registry_names(self) -> RegistryNames:
        """Return the names of registries, as the blocking index uses them."""
        asynchronous = self._index.asynchronous if isinstance(self._index, DrivenIndex) else None
        return registry_names_of(asynchronous)

    def local_entries(self) -> Sequence[LayerEntry] | None:
        """Return the entries of the blocking index in this process; None if it cannot list them."""
        return local_entries_of(self._index.asynchronous) if isinstance(self._index, DrivenIndex) else None
