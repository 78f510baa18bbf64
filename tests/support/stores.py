"""Every kind of index, blocking and async, for the tests of the index's contract."""

from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager

import fakeredis

import redis
from crossmount.index import (
    Keys,
    MemoryMountIndex,
    MountableLayers,
    MountIndex,
    RedisMountIndex,
    RegistryTraits,
    Sighting,
)
from crossmount.index import blocking as blocking_index
from crossmount.redis.link import Link
from support.index_kit import TTL, Clock, Store, age_keys, keys_that_stay
from support.links import async_link, async_link_to, blocking_link, blocking_link_to
from support.places import PLACES, Place

KEYS = Keys()


class RecordedBelow(MemoryMountIndex):
    """A memory index over another one that gets all records."""

    def __init__(self, below: MountIndex, clock: Clock) -> None:
        super().__init__(below, ttl=TTL, clock=clock)
        self._below = below

    async def record(self, sightings: Iterable[Sighting]) -> None:
        """Record it below."""
        await self._below.record(sightings)

    async def record_traits(self, registry: str, traits: RegistryTraits) -> None:
        """Record them below."""
        await self._below.record_traits(registry, traits)


View = Callable[[MountableLayers], MountableLayers]


@contextmanager
def memory_store(kind: str) -> Iterator[Store]:
    """Make one of the indexes in memory."""
    clock = Clock()

    def age(seconds: float) -> None:
        clock.now += seconds

    blocking_memory = blocking_index.MemoryMountIndex(ttl=TTL, clock=clock)
    below = MemoryMountIndex(ttl=TTL, clock=clock)
    indexes: dict[str, Callable[[], object]] = {
        "memory": lambda: below,
        "memory blocking, inline": lambda: blocking_index.inline(blocking_memory),
        "memory blocking, threaded": lambda: blocking_index.threaded(blocking_memory),
        "memory over memory": lambda: MemoryMountIndex(below, ttl=TTL, clock=clock),
        "memory blocking over blocking": lambda: blocking_index.inline(
            blocking_index.MemoryMountIndex(blocking_memory, ttl=TTL, clock=clock)
        ),
        "memory recorded below": lambda: RecordedBelow(below, clock),
    }
    index = indexes[kind]()
    assert isinstance(index, MountIndex)
    yield Store(index, age)


@asynccontextmanager
async def redis_store(
    make_async: Callable[[], Link],
    make_blocking: Callable[[], Link],
    raw: "redis.Redis",
    flavour: str,
) -> AsyncIterator[Store]:
    """Make an index on a server, in one of the flavours."""
    clock = Clock()

    def age(seconds: float) -> None:
        clock.now += seconds
        age_keys(raw, seconds)

    index: object
    if flavour == "async":
        index = RedisMountIndex(make_async(), keys=KEYS, ttl=TTL, clock=clock)
    else:
        adapt = {"inline": blocking_index.inline, "threaded": blocking_index.threaded}[flavour]
        index = adapt(blocking_index.RedisMountIndex(make_blocking(), keys=KEYS, ttl=TTL, clock=clock))
    assert isinstance(index, MountIndex)
    yield Store(index, age)
    assert keys_that_stay(raw) == []
    await index.aclose()


MEMORY = (
    "memory",
    "memory blocking, inline",
    "memory blocking, threaded",
    "memory over memory",
    "memory blocking over blocking",
    "memory recorded below",
)
FLAVOURS = ("async", "inline", "threaded")
STORES = (*MEMORY, *(f"{server} {flavour}" for server in ("fake", *PLACES) for flavour in FLAVOURS))


@asynccontextmanager
async def open_store(name: str, place: Callable[[str], Place]) -> AsyncIterator[Store]:
    """Make one of the `STORES`, empty; `place` returns the server of a kind."""
    if name in MEMORY:
        with memory_store(name) as made:
            yield made
        return
    kind, _, flavour = name.partition(" ")
    if kind == "fake":
        fake = fakeredis.FakeServer()
        with fakeredis.FakeRedis(server=fake) as raw:
            async with redis_store(
                lambda: async_link_to(fakeredis.FakeRedis(server=fake)),
                lambda: blocking_link_to(fakeredis.FakeRedis(server=fake)),
                raw,
                flavour,
            ) as made:
                yield made
        return
    server = place(kind)
    url = server.operator_url  # the one who may set a must-mount flag; test_index_acl has what pushers may do
    with server.client() as raw:
        async with redis_store(lambda: async_link(url), lambda: blocking_link(url), raw, flavour) as made:
            yield made
