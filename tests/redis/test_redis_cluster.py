"""The index on a Cluster: round trips, redirections, failovers, and masters that do not answer."""

import contextlib
import itertools
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import pytest

from crossmount._blocking import run_now
from crossmount.errors import IndexRefusedError
from crossmount.index import Keys, LayerKnowledge, RedisMountIndex, Sighting
from crossmount.oci import Digest
from crossmount.redis.cluster import ClusterClient, ServerRequest
from crossmount.redis.connection import connect
from crossmount.redis.link import BlockingLink, Link, ThreadedLink
from crossmount.redis.replies import Command
from crossmount.redis.routing import Target
from crossmount.redis.url import parse_url
from support.cluster import Cluster, another, in_step, slot
from support.index_kit import layer, repo

T = TypeVar("T")

A, B, DEST = repo("team/a"), repo("team/b"), repo("team/dest")
ONE = layer(1)
FORTY = [layer(i) for i in range(40)]
KEYS = Keys()

both = pytest.mark.parametrize("flavour", ["async", "blocking"])


class Watched:
    """A link to a Cluster that records the commands for each server; each entry of `rounds` is one round trip."""

    def __init__(self, url: str, flavour: str) -> None:
        client = connect(parse_url(url))
        assert isinstance(client, ClusterClient)
        self.servers: Any = client._pools
        self.link: Link = ThreadedLink(client) if flavour == "async" else BlockingLink(client)
        self.index = RedisMountIndex(self.link)
        self.rounds: list[list[tuple[Target, list[Command]]]] = []
        self._flavour = flavour
        exchange: Callable[[Sequence[ServerRequest]], list[list[Any] | Exception]] = self.servers.exchange

        def watch(requests: Sequence[ServerRequest]) -> list[list[Any] | Exception]:
            self.rounds.append([(target, list(commands)) for target, commands in requests])
            return exchange(requests)

        self.servers.exchange = watch  # type: ignore[method-assign]  # the test counts the calls

    async def do(self, call: Coroutine[Any, Any, T]) -> T:
        """Await a call, or run it without an event loop in the blocking flavour."""
        return await call if self._flavour == "async" else run_now(call)

    def names(self) -> list[list[str]]:
        """Return the commands' names, round by round."""
        return [[str(command[0]) for _, commands in requests for command in commands] for requests in self.rounds]


@asynccontextmanager
async def watched(cluster: Cluster, flavour: str) -> AsyncIterator[Watched]:
    """Open such a link."""
    watched = Watched(cluster.operator_url, flavour)
    yield watched
    await watched.link.aclose()


def two_in_a_slot() -> tuple[Digest, Digest]:
    """Return two layers whose keys share a slot."""
    seen: dict[int, Digest] = {}
    for number in itertools.count():
        found = layer(number)
        if slot(found) in seen:
            return seen[slot(found)], found
        seen[slot(found)] = found
    raise AssertionError


@both
async def test_forty_layers_are_one_round_trip_to_each_server(cluster: Cluster, flavour: str) -> None:
    """Once the slots are known, a look-up and a recording ask each server once, all at the same time."""
    async with watched(cluster, flavour) as link:
        await link.do(link.index.record([Sighting(one, A, size=1) for one in FORTY]))
        assert [set(names) for names in link.names()] == [
            {"CLUSTER"},
            {"EVALSHA", "HGETALL", "HGET", "TIME"},  # the first call reads what is shared, too
            {"EVAL", "EVALSHA"},  # the script goes to each server once
        ]
        assert await link.do(link.index.sources(ONE, DEST)) == (A,)
        await link.do(link.index.record([Sighting(ONE, A)]))  # counts the look-up, with another script
        link.rounds.clear()
        knowledge = await link.do(link.index.look_up(FORTY, DEST))
        await link.do(link.index.record([Sighting(one, B) for one in FORTY]))
        assert all(knowledge.of(one) == LayerKnowledge((A,), size=1) for one in FORTY)
        ports = sorted(server.port for server in cluster.masters())
        assert [sorted(target.node[1] for target, _ in requests) for requests in link.rounds] == [ports, ports]


@both
async def test_scripts_are_loaded_again_where_they_are_gone(cluster: Cluster, flavour: str) -> None:
    """Scripts are loaded again on a server that lost them, and every command runs."""
    async with watched(cluster, flavour) as link:
        await link.do(link.index.record([Sighting(one, A) for one in FORTY]))
        with cluster.masters()[1].client() as client:
            client.script_flush()
        await link.do(link.index.record([Sighting(one, B) for one in FORTY]))
        knowledge = await link.do(link.index.look_up(FORTY, DEST))
        assert all(knowledge.of(one).sources == (A, B) for one in FORTY)


@both
async def test_a_slot_that_moved_is_followed_at_the_cost_of_one_round_trip(cluster: Cluster, flavour: str) -> None:
    """After MOVED the command and a request for the map go to the new server; the next call goes there at once."""
    async with watched(cluster, flavour) as link:
        await link.do(link.index.record([Sighting(ONE, A)]))
        source = cluster.owner_of(slot(ONE))
        target = another(cluster, source)
        cluster.move_slot(slot(ONE), target)
        try:
            link.rounds.clear()
            assert await link.do(link.index.sources(ONE, DEST)) == (A,)
            assert len(link.rounds) == 2
            ((asked, commands),) = link.rounds[1]
            assert asked.node[1] == target.port
            assert commands[0] == ("CLUSTER", "SLOTS")
            link.rounds.clear()
            await link.do(link.index.record([Sighting(ONE, B)]))  # brings the scripts there
            assert await link.do(link.index.sources(ONE, DEST)) == (A, B)
            assert {"CLUSTER"} not in [set(names) for names in link.names()]
        finally:
            cluster.move_slot(slot(ONE), source)


@both
async def test_a_slot_that_is_being_moved_is_served(cluster: Cluster, flavour: str) -> None:
    """After ASK a command goes to the new server once, together with the scripts that it needs."""
    old, new = two_in_a_slot()
    async with watched(cluster, flavour) as link:
        await link.do(link.index.record([Sighting(old, A, size=7)]))
        source = cluster.owner_of(slot(old))
        target = another(cluster, source)
        try:
            with cluster.moving(slot(old), target):
                link.rounds.clear()
                known = await link.do(link.index.look_up([old], DEST))
                assert known.of(old) == LayerKnowledge((A,), size=7)
                assert any(("ASKING",) in commands for requests in link.rounds for _, commands in requests)
                link.rounds.clear()
                await link.do(link.index.clear_must_mount(new))
                (asked, commands) = link.rounds[-1][-1]
                assert asked.node[1] == target.port
                assert [str(command[0]) for command in commands][-2:] == ["ASKING", "EVAL"]
            assert await link.do(link.index.sources(old, DEST)) == (A,)
        finally:
            cluster.move_slot(slot(old), source)


@both
async def test_a_layer_whose_keys_are_on_two_servers_is_waited_for(cluster: Cluster, flavour: str) -> None:
    """After TRYAGAIN a script is called again in a moment; if TRYAGAIN persists, it is refused."""
    async with watched(cluster, flavour) as link:
        await link.do(link.index.record([Sighting(ONE, A)]))
        source = cluster.owner_of(slot(ONE))
        target = another(cluster, source)
        pauses = 0

        def pause(seconds: float) -> None:
            nonlocal pauses
            del seconds
            pauses += 1
            if pauses == 2:
                moving.close()

        link.servers.pause = pause  # no real wait is needed
        try:
            with contextlib.ExitStack() as moving:
                moving.enter_context(cluster.moving(slot(ONE), target))
                await link.do(link.index.record([Sighting(ONE, B)]))
            assert pauses == 2
            assert await link.do(link.index.sources(ONE, DEST)) == (A, B)
            with cluster.moving(slot(ONE), source):
                pauses = 10
                with pytest.raises(IndexRefusedError, match="Multiple keys"):
                    await link.do(link.index.record([Sighting(ONE, DEST)]))
        finally:
            if cluster.owner_of(slot(ONE)) is not source:
                cluster.move_slot(slot(ONE), source)


@both
async def test_a_failover_is_followed(cluster: Cluster, flavour: str) -> None:
    """After failovers the same link reads and records as before."""
    async with watched(cluster, flavour) as link:
        await link.do(link.index.record([Sighting(one, A) for one in FORTY]))
        for master in cluster.masters():
            in_step(master)
            cluster.fail_over(master)
        knowledge = await link.do(link.index.look_up(FORTY, DEST))
        assert all(knowledge.of(one).sources == (A,) for one in FORTY)
        await link.do(link.index.record([Sighting(one, B) for one in FORTY]))
        assert await link.do(link.index.sources(ONE, DEST)) == (A, B)


def test_a_cluster_is_whole_for_the_next_test(cluster: Cluster) -> None:
    """After a failover the tests' own client knows the new masters."""
    cluster.fail_over(cluster.masters()[0])
    cluster.flush()
    with cluster.client() as client:
        client.flushall()


@both
@pytest.mark.parametrize("trouble", ["stop", "pause"])
async def test_a_dead_master_affects_only_its_own_layers(cluster: Cluster, flavour: str, trouble: str) -> None:
    """A call refuses the keys of that master in time and answers for all others; then it gets no commands."""
    async with watched(cluster, flavour) as link:
        await link.do(link.index.record([Sighting(one, A) for one in FORTY]))
        gone = cluster.owner_of(slot(ONE))
        elsewhere = next(one for one in FORTY if cluster.owner_of(slot(one)) is not gone)
        other = cluster.owner_of(slot(elsewhere))
        with cluster.replica_of(gone).client() as client:
            client.config_set("cluster-replica-no-failover", "yes")
        try:
            getattr(gone, trouble)()
            here, there = [("HEXISTS", KEYS.flags(one), "size") for one in (ONE, elsewhere)]
            for _ in range(2):
                refused, answered = await link.do(link.link.run([here, there]))
                assert isinstance(refused, IndexRefusedError)
                assert f"127.0.0.1:{gone.port}, which holds the key, does not answer" in str(refused)
                assert answered == 0
            asked = {target.node[1] for requests in link.rounds[-1:] for target, _ in requests}
            assert asked == {other.port}
            known = await link.do(link.index.look_up(FORTY, DEST))
            assert known.of(ONE) == LayerKnowledge()
            assert known.of(elsewhere) == LayerKnowledge((A,))
        finally:
            cluster.heal()
            with cluster.replica_of(gone).client() as client:
                client.config_set("cluster-replica-no-failover", "no")
