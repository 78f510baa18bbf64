"""The index on a Cluster: round trips, redirections, failovers, and servers that are not there."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import pytest

from crossmount._blocking import run_now
from crossmount.errors import IndexRefusedError, IndexUnavailableError
from crossmount.index import Keys, LayerKnowledge, RedisMountIndex, Sighting, open_index
from crossmount.index.blocking import inline, threaded
from crossmount.index.blocking import open_index as open_blocking
from crossmount.index.cluster import ClusterLink
from crossmount.index.connection import async_link, blocking_link
from crossmount.index.errand import Stop
from crossmount.index.link import Command, Link
from crossmount.index.pools import Ask
from crossmount.index.served import server_of
from crossmount.index.slots import slot_of
from crossmount.index.walk import walk
from crossmount.oci import Digest
from support.cluster import Cluster
from support.index_kit import layer, repo
from support.servers import Server

T = TypeVar("T")

A, B, DEST = repo("team/a"), repo("team/b"), repo("team/dest")
ONE = layer(1)
FORTY = [layer(i) for i in range(40)]
KEYS = Keys()

both = pytest.mark.parametrize("flavour", ["async", "blocking"])


class Watched:
    """A link to a Cluster that remembers whom it asked what; each entry of `rounds` is one round trip."""

    def __init__(self, link: ClusterLink, flavour: str) -> None:
        self.link = link
        self.index = RedisMountIndex(link)
        self.rounds: list[list[tuple[Stop, list[Command]]]] = []
        self._flavour = flavour
        exchange = link._pools.exchange

        async def watch(asks: Sequence[Ask]) -> list[list[Any] | Exception]:
            self.rounds.append([(stop, list(commands)) for stop, commands in asks])
            return await exchange(asks)

        link._pools.exchange = watch  # type: ignore[method-assign]  # what is asked is what is tested

    async def do(self, call: Coroutine[Any, Any, T]) -> T:
        """Await a call, or drive it in the blocking flavour."""
        return await call if self._flavour == "async" else run_now(call)

    def names(self) -> list[list[str]]:
        """Return the commands' names, round by round."""
        return [[str(command[0]) for _, commands in asks for command in commands] for asks in self.rounds]


@asynccontextmanager
async def watched(cluster: Cluster, flavour: str) -> AsyncIterator[Watched]:
    """Open such a link."""
    link = async_link(cluster.url) if flavour == "async" else blocking_link(cluster.url)
    assert isinstance(link, ClusterLink)
    yield Watched(link, flavour)
    await link.aclose()


def slot(digest: Digest) -> int:
    """Return the slot of a layer."""
    found = slot_of(("HGETALL", KEYS.flags(digest)))
    assert found is not None
    return found


def two_in_a_slot() -> tuple[Digest, Digest]:
    """Return two layers whose keys share a slot."""
    seen: dict[int, Digest] = {}
    for number in itertools.count():
        found = layer(number)
        if slot(found) in seen:
            return seen[slot(found)], found
        seen[slot(found)] = found
    raise AssertionError


def another(cluster: Cluster, server: Server) -> Server:
    """Return another master."""
    return next(master for master in cluster.masters() if master is not server)


@both
async def test_forty_layers_are_one_round_trip_to_each_server(cluster: Cluster, flavour: str) -> None:
    """Once the slots are known, a look-up and a recording ask each server once, all at the same time."""
    async with watched(cluster, flavour) as link:
        await link.do(link.index.record([Sighting(one, A, size=1) for one in FORTY]))
        assert [set(names) for names in link.names()] == [{"CLUSTER"}, {"EVALSHA"}, {"EVALSHA", "SCRIPT"}]
        link.rounds.clear()
        knowledge = await link.do(link.index.look_up(FORTY, DEST))
        await link.do(link.index.record([Sighting(one, B) for one in FORTY]))
        assert all(knowledge.of(one) == LayerKnowledge((A,), size=1) for one in FORTY)
        ports = sorted(server.port for server in cluster.masters())
        assert [sorted(stop.node[1] for stop, _ in asks) for asks in link.rounds] == [ports, ports]


@both
async def test_scripts_are_loaded_again_where_they_are_gone(cluster: Cluster, flavour: str) -> None:
    """A server that lost its scripts gets them again, and every call is carried out."""
    async with watched(cluster, flavour) as link:
        await link.do(link.index.record([Sighting(one, A) for one in FORTY]))
        with cluster.masters()[1].client() as client:
            client.script_flush()
        await link.do(link.index.record([Sighting(one, B) for one in FORTY]))
        knowledge = await link.do(link.index.look_up(FORTY, DEST))
        assert all(knowledge.of(one).sources == (A, B) for one in FORTY)


@both
async def test_a_slot_that_moved_is_followed_at_the_cost_of_one_round_trip(cluster: Cluster, flavour: str) -> None:
    """MOVED sends what was refused on, the new map comes along, and the next call goes straight there."""
    async with watched(cluster, flavour) as link:
        await link.do(link.index.record([Sighting(ONE, A)]))
        source = cluster.owner_of(slot(ONE))
        target = another(cluster, source)
        cluster.move_slot(slot(ONE), target)
        try:
            link.rounds.clear()
            assert await link.do(link.index.sources(ONE, DEST)) == (A,)
            assert len(link.rounds) == 2
            ((stop, commands),) = link.rounds[1]
            assert stop.node[1] == target.port
            assert commands[0] == ("CLUSTER", "SLOTS")
            link.rounds.clear()
            await link.do(link.index.record([Sighting(ONE, B)]))  # brings the scripts there
            assert await link.do(link.index.sources(ONE, DEST)) == (A, B)
            assert {"CLUSTER"} not in [set(names) for names in link.names()]
        finally:
            cluster.move_slot(slot(ONE), source)


@both
async def test_a_slot_that_is_being_moved_is_served(cluster: Cluster, flavour: str) -> None:
    """ASK is followed for what is not here any more, and brings the scripts that the other server lacks."""
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
                assert any(("ASKING",) in commands for asks in link.rounds for _, commands in asks)
                link.rounds.clear()
                await link.do(link.index.clear_must_mount(new))
                (stop, commands) = link.rounds[-1][-1]
                assert stop.node[1] == target.port
                assert [str(command[0]) for command in commands][-2:] == ["ASKING", "EVALSHA"]
                assert ("SCRIPT", "LOAD") in [command[:2] for command in commands]
            assert await link.do(link.index.sources(old, DEST)) == (A,)
        finally:
            cluster.move_slot(slot(old), source)


@both
async def test_a_layer_whose_keys_are_on_two_servers_is_waited_for(cluster: Cluster, flavour: str) -> None:
    """A script needs all its keys in one place: TRYAGAIN is asked again in a moment, and a refusal if it stays."""
    async with watched(cluster, flavour) as link:
        await link.do(link.index.record([Sighting(ONE, A)]))
        source = cluster.owner_of(slot(ONE))
        target = another(cluster, source)
        pauses = 0

        async def pause(seconds: float) -> None:
            nonlocal pauses
            del seconds
            pauses += 1
            if pauses == 2:
                moving.close()

        link.link._pools.pause = pause  # type: ignore[method-assign]  # no real wait is needed
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
    """After a replica took its master's place, both answer as before, by the same link."""
    async with watched(cluster, flavour) as link:
        await link.do(link.index.record([Sighting(one, A) for one in FORTY]))
        for master in cluster.masters():
            in_step(master)
            cluster.fail_over(master)
        knowledge = await link.do(link.index.look_up(FORTY, DEST))
        assert all(knowledge.of(one).sources == (A,) for one in FORTY)
        await link.do(link.index.record([Sighting(one, B) for one in FORTY]))
        assert await link.do(link.index.sources(ONE, DEST)) == (A, B)


def in_step(master: Server) -> None:
    """Wait until a master's replica has all that it has."""
    with master.client() as client:
        client.wait(1, 5000)


def test_a_cluster_is_whole_for_the_next_test(cluster: Cluster) -> None:
    """After a failover, the client of the tests knows the masters that there are."""
    cluster.fail_over(cluster.masters()[0])
    cluster.flush()
    with cluster.client() as client:
        client.flushall()


@both
@pytest.mark.parametrize("trouble", ["stop", "pause"])
async def test_a_master_that_is_gone_takes_only_its_own_layers_along(
    cluster: Cluster, flavour: str, trouble: str
) -> None:
    """What it holds is refused in time and all else answered, in one call; then it is not asked for a while."""
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
            asked = {stop.node[1] for asks in link.rounds[-1:] for stop, _ in asks}
            assert asked == {other.port}
            known = await link.do(link.index.look_up(FORTY, DEST))
            assert known.of(ONE) == LayerKnowledge()
            assert known.of(elsewhere) == LayerKnowledge((A,))
        finally:
            cluster.heal()
            with cluster.replica_of(gone).client() as client:
                client.config_set("cluster-replica-no-failover", "no")


async def test_a_dead_seed_is_passed_over(cluster: Cluster, unused_tcp_port: int) -> None:
    """One server of the URL that is not there does not matter, in whatever order they are named."""
    for url in (
        cluster.url.replace("127.0.0.1:", f"127.0.0.1:{unused_tcp_port},127.0.0.1:", 1),
        f"{cluster.url},127.0.0.1:{unused_tcp_port}",
    ):
        async with open_index(url) as index:
            assert await index.sources(ONE, DEST) == ()


@both
async def test_no_server_at_all(flavour: str, unused_tcp_port: int) -> None:
    """Where no server of the URL answers the index is unavailable, and says where that was."""
    url = f"redis+cluster://u:hunter2secret@127.0.0.1:{unused_tcp_port}"
    link = async_link(url) if flavour == "async" else blocking_link(url)
    with pytest.raises(IndexUnavailableError, match=r"redis\+cluster://127\.0\.0\.1") as caught:
        await link.run([("PING",)]) if flavour == "async" else run_now(link.run([("PING",)]))
    assert "hunter2secret" not in str(caught.value)
    with pytest.raises(IndexUnavailableError):
        await link.parts() if flavour == "async" else run_now(link.parts())
    await link.aclose()


@both
async def test_a_server_that_is_no_cluster_is_told(valkey: Server, flavour: str) -> None:
    """A single server behind a Cluster's URL is a refusal that says which URL is meant."""
    url = valkey.url.replace("redis://", "redis+cluster://")
    link = async_link(url) if flavour == "async" else blocking_link(url)
    with pytest.raises(IndexRefusedError, match="disabled: if it is no Cluster, give a redis:// URL"):
        await link.run([("PING",)]) if flavour == "async" else run_now(link.run([("PING",)]))
    await link.aclose()


async def test_a_part_of_a_cluster_behind_a_single_url_is_told(cluster: Cluster) -> None:
    """What is elsewhere is a refusal that names the URL to use."""
    port = another(cluster, cluster.owner_of(slot(ONE))).port
    async with open_index(f"redis://127.0.0.1:{port}") as index:
        with pytest.raises(IndexRefusedError, match=r"give a redis\+cluster:// URL"):
            await index.add_source(ONE, A)


@both
async def test_a_wrong_password_is_told(cluster: Cluster, flavour: str) -> None:
    """A login that is refused is a refusal, at once, and the password is not repeated."""
    url = cluster.url.replace("a%20pass", "hunter2secret")
    link = async_link(url) if flavour == "async" else blocking_link(url)
    with pytest.raises(IndexRefusedError, match="invalid username-password") as caught:
        await link.run([("PING",)]) if flavour == "async" else run_now(link.run([("PING",)]))
    assert "hunter2secret" not in str(caught.value)
    await link.aclose()


@both
async def test_look_ups_go_to_replicas_on_request(cluster: Cluster, flavour: str) -> None:
    """With read_from=replica look-ups ask replicas, also one by one; what is recorded goes to masters."""
    opened = open_index if flavour == "async" else lambda url: inline(open_blocking(url))
    index: Any = opened(f"{cluster.url}?read_from=replica")
    await index.record([Sighting(one, A, must_mount=True) for one in FORTY])
    for master in cluster.masters():
        in_step(master)
    calls = {server: called(server) for server in cluster.nodes}
    knowledge = await index.look_up(FORTY, DEST)
    assert all(knowledge.of(one).sources == (A,) for one in FORTY)
    assert await index.must_mount(ONE)
    masters = cluster.masters()
    assert all(called(server) == calls[server] for server in masters)
    assert all(called(server) > calls[server] for server in cluster.nodes if server not in masters)
    for one in FORTY:
        await index.clear_must_mount(one)
    await index.aclose()


def called(server: Server) -> int:
    """Return how often a server was asked for a hash."""
    with server.client() as client:
        return int(client.info("commandstats").get("cmdstat_hgetall", {}).get("calls", 0))


async def test_a_replica_that_is_gone_is_replaced_by_its_master(cluster: Cluster) -> None:
    """A look-up that no replica answers goes to the master, in the same call."""
    async with open_index(f"{cluster.url}?read_from=replica") as index:
        await index.record([Sighting(one, A) for one in FORTY])
        for master in cluster.masters():
            in_step(master)
        await index.look_up(FORTY, DEST)
        for server in cluster.nodes:
            if server not in cluster.masters():
                server.stop()
        knowledge = await index.look_up(FORTY, DEST)
        assert all(knowledge.of(one).sources == (A,) for one in FORTY)


@both
async def test_all_servers_are_walked(cluster: Cluster, flavour: str) -> None:
    """A walk goes through the keys of every master."""
    opened = open_index if flavour == "async" else lambda url: threaded(open_blocking(url))
    index: Any = opened(cluster.operator_url)
    await index.record([Sighting(one, A) for one in FORTY])
    server = server_of(index)
    assert server is not None
    found = {key async for key in walk(server.link, "crossmount:default:{*}:flags", count=5)}
    assert found == {KEYS.flags(one).encode() for one in FORTY}
    await index.aclose()


async def test_more_calls_than_connections(cluster: Cluster) -> None:
    """Calls beyond the pools wait for their turn."""
    async with open_index(cluster.url) as index:
        await index.record([Sighting(one, A) for one in FORTY])
        found = await asyncio.gather(*(index.look_up(FORTY[:6], DEST) for _ in range(100)))
        assert all(knowledge.of(ONE).sources == (A,) for knowledge in found)


def test_threads_share_one_index(cluster: Cluster) -> None:
    """Threads, more than there are connections to a server, lose nothing, while a slot moves to and fro."""
    source = cluster.owner_of(slot(ONE))
    target = another(cluster, source)
    with open_blocking(cluster.url) as index, ThreadPoolExecutor(80) as pool:
        work = [pool.submit(index.add_source, layer(n % 10), repo(f"team/r{n // 10}")) for n in range(600)]
        for server in (target, source):
            cluster.move_slot(slot(ONE), server)
        for each in work:
            each.result()
        assert all(len(index.sources(layer(n), DEST)) == 60 for n in range(10))


def test_another_event_loop_is_told(cluster: Cluster) -> None:
    """A link used in a second event loop says so, as an index that does not serve."""

    async def use(link: Link) -> None:
        try:
            await link.run([("PING",)])
        finally:
            await link.aclose()

    link = async_link(cluster.url)
    asyncio.run(use(link))
    with pytest.raises(IndexUnavailableError, match="another event loop"):
        asyncio.run(use(link))


@pytest.mark.parametrize("turns", range(6))
async def test_a_cancelled_call_leaves_no_reply_behind(cluster: Cluster, turns: int) -> None:
    """A call ends when it is cancelled, at whatever moment, and the next one gets its own replies."""
    async with open_index(cluster.url) as index:
        await index.record([Sighting(one, A, size=n) for n, one in enumerate(FORTY)])
        call = asyncio.create_task(index.look_up(FORTY, DEST))
        for _ in range(turns):
            await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        knowledge = await index.look_up(FORTY[::-1], DEST)
        assert [knowledge.of(one).size for one in FORTY] == list(range(40))
