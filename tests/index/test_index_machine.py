"""The Redis and the memory index return the same after any sequence of calls."""

import itertools
from collections.abc import Iterator
from typing import ClassVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

import redis
from crossmount.index import Keys, RegistryTraits, Sighting
from crossmount.index.blocking import MemoryMountIndex, RedisMountIndex
from crossmount.oci import Digest, Repository
from support.index_kit import TTL, Clock, age_keys, layer, repo
from support.links import blocking_link
from support.servers import Server

LAYERS = [layer(i) for i in range(3)]
PLACES = [
    *(repo(name) for name in ("a", "team/a", "team/b")),
    *(Repository.parse(text) for text in ("alpine", "index.docker.io/team/a", "o.example:5000/a", "[::1]:5000/b")),
]
layers, places = st.sampled_from(LAYERS), st.sampled_from(PLACES)
maybe = st.none() | st.booleans()
traits = st.builds(RegistryTraits, maybe, maybe, maybe, maybe)
sightings = st.builds(
    Sighting,
    layers,
    places,
    st.none() | st.integers(0, 2**63 - 1),
    st.sampled_from([False, False, False, True]),
)


class Machine(RuleBasedStateMachine):
    """Applies the same calls to an index on a server and to one in memory."""

    url: ClassVar[str]
    numbers: ClassVar[Iterator[int]] = itertools.count()

    def __init__(self) -> None:
        super().__init__()
        self.namespace = f"machine-{next(self.numbers)}"
        self.clock = Clock()
        link, keys = blocking_link(self.url), Keys(self.namespace)
        self.redis = RedisMountIndex(link, keys=keys, ttl=TTL, clock=self.clock)
        self.memory = MemoryMountIndex(ttl=TTL, clock=self.clock)

    @rule(seen=st.lists(sightings, max_size=4))
    def record(self, seen: list[Sighting]) -> None:
        """Record some sightings."""
        for index in (self.redis, self.memory):
            index.record(seen)

    @rule(one=layers, place=places, must_mount=st.booleans())
    def add(self, one: Digest, place: Repository, *, must_mount: bool) -> None:
        """Add a source."""
        for index in (self.redis, self.memory):
            index.add_source(one, place, must_mount=must_mount)

    @rule(one=layers, gone=st.lists(places, max_size=3))
    def forget(self, one: Digest, gone: list[Repository]) -> None:
        """Forget some sources."""
        for index in (self.redis, self.memory):
            index.forget(one, *gone)

    @rule(one=layers)
    def clear(self, one: Digest) -> None:
        """Clear the must-mount flag."""
        for index in (self.redis, self.memory):
            index.clear_must_mount(one)

    @rule(place=places, seen=traits)
    def learn(self, place: Repository, seen: RegistryTraits) -> None:
        """Record traits of a registry."""
        for index in (self.redis, self.memory):
            index.record_traits(place.registry, seen)

    @rule(seconds=st.sampled_from([300, 700, 6 * 3600 + 100]))
    def pass_time(self, seconds: int) -> None:
        """Advance the clock."""
        self.clock.now += seconds
        with redis.Redis.from_url(self.url) as raw:
            age_keys(raw, seconds, f"crossmount:{self.namespace}:*")

    @invariant()
    def same_answers(self) -> None:
        """Compare the answers of both."""
        for dest in PLACES:
            assert self.redis.look_up(LAYERS, dest) == self.memory.look_up(LAYERS, dest)
        for one in LAYERS:
            assert self.redis.locations(one) == self.memory.locations(one)
            assert self.redis.must_mount(one) == self.memory.must_mount(one)

            dest = PLACES[0]
            assert self.redis.is_mountable(one, dest) == self.memory.is_mountable(one, dest)

    def teardown(self) -> None:
        """Close the connections."""
        self.redis.close()


def test_redis_and_memory_agree(valkey: Server) -> None:
    """Below the bound, no sequence of calls and expiries leads to different answers."""
    run_state_machine_as_test(
        type("Bound", (Machine,), {"url": valkey.unix_url}),
        settings=settings(
            max_examples=25,
            stateful_step_count=12,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
