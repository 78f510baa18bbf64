"""Look-ups from the nearest server: two regions that share one index by replication."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from crossmount import events
from crossmount.errors import IndexFailedError, IndexUnavailableError
from crossmount.index import GuardedIndex, Sighting, open_index
from crossmount.index.blocking import inline
from crossmount.index.blocking import open_index as open_blocking
from crossmount.index.guard import DEADLINE_SECONDS
from crossmount.index.guarded_calls import OPEN_SECONDS
from crossmount.redis.address import Node
from crossmount.redis.nearest import MEASURE_SECONDS, RoundTrips, WarmingClient
from crossmount.redis.routing import CommandRouting, Target
from crossmount.redis.slots import Shard, SlotMap
from support.cluster import Cluster
from support.index_kit import Clock, layer, repo
from support.link import RunningLink, running_link
from support.links import blocking_link
from support.sentinels import Sentinels
from support.servers import Server, StartServer
from support.several import until
from support.waiting import PATIENCE

ONE = layer(1)
A, DEST = repo("team/a"), repo("team/dest")
APART = 0.15

both = pytest.mark.parametrize("flavour", ["async", "blocking"])


def opened(url: str, flavour: str) -> Any:
    """Open an index of a flavour, with methods to await."""
    return open_index(url) if flavour == "async" else inline(open_blocking(url))


def reads(server: Server) -> int:
    """Return how many look-ups a server has answered."""
    with server.client() as client:
        return int(client.info("commandstats").get("cmdstat_srandmember", {}).get("calls", 0))


@dataclass(frozen=True, slots=True)
class Regions:
    """A primary in another region, and its replica in this one."""

    primary: Server
    replica: Server
    way: RunningLink

    @property
    def url(self) -> str:
        """Return the URL for this region."""
        return f"redis://{self.way.address},127.0.0.1:{self.replica.port}/0?read_from=nearest"

    def wait_for_replica(self) -> None:
        """Wait until the replica has all that the primary has."""

        def offset(server: Server) -> object:
            with server.client() as client:
                return client.info("replication")["master_repl_offset"]

        def is_linked() -> bool:
            with self.replica.client() as client:
                return bool(client.info("replication")["master_link_status"] == "up")

        until(lambda: is_linked() and offset(self.primary) == offset(self.replica), "the replica does not follow")


@contextmanager
def replicated(start_server: StartServer) -> Iterator[Regions]:
    """Run a primary and a replica that are a long way apart for their clients."""
    primary, replica = start_server(), start_server()
    with replica.client() as client:
        client.replicaof("127.0.0.1", primary.port)
    with running_link(f"127.0.0.1:{primary.port}", round_trip=APART) as way:
        regions = Regions(primary, replica, way)
        regions.wait_for_replica()
        yield regions


@both
async def test_a_region_reads_from_its_replica(start_server: StartServer, flavour: str) -> None:
    """Look-ups are answered by the replica nearby, records go to the primary far away."""
    with replicated(start_server) as regions:
        index = opened(regions.url, flavour)
        await index.record([Sighting(ONE, A)])
        regions.wait_for_replica()
        assert await index.sources(ONE, DEST) == (A,)
        assert reads(regions.replica) == 1
        assert reads(regions.primary) == 0
        await index.aclose()


@both
async def test_a_region_that_is_cut_off_still_looks_up(start_server: StartServer, flavour: str) -> None:
    """While the primary cannot be reached look-ups go on, and records are dropped, which is said once."""
    said: list[events.Event] = []
    clock = Clock(0.0)
    with replicated(start_server) as regions:
        index = opened(regions.url, flavour)
        deadline = DEADLINE_SECONDS if flavour == "async" else None
        guard = GuardedIndex(index, observer=said.append, clock=clock, deadline=deadline, lasting=True)
        await guard.record([Sighting(ONE, A)])
        regions.wait_for_replica()
        regions.way.cut()
        for _ in range(3):
            await guard.record([Sighting(layer(2), A)])
            assert (await guard.look_up([ONE], DEST)).of(ONE).sources == (A,)
        assert [type(each) for each in said] == [events.IndexDegraded]
        assert (guard.unserved, guard.breaker_open) == (3, True)
        regions.way.join()
        clock.now += OPEN_SECONDS
        await guard.record([Sighting(layer(3), A)])  # the probe, which nobody waits for over such a distance
        while len(said) == 1:  # noqa: ASYNC110 an observer is no coroutine
            await asyncio.sleep(0.01)
        await guard.record([Sighting(layer(3), A)])
        assert [type(each) for each in said] == [events.IndexDegraded, events.IndexRestored]
        regions.wait_for_replica()
        assert (await guard.look_up([layer(3)], DEST)).of(layer(3)).sources == (A,)
        await guard.aclose()


@both
async def test_look_ups_cross_regions_where_the_replica_is_gone(start_server: StartServer, flavour: str) -> None:
    """A replica that stops to answer is replaced by the primary within the same look-up, and for some seconds."""
    with replicated(start_server) as regions:
        index = opened(regions.url, flavour)
        await index.record([Sighting(ONE, A)])
        regions.wait_for_replica()
        assert await index.sources(ONE, DEST) == (A,)
        regions.replica.pause()
        for _ in range(2):
            assert await index.sources(ONE, DEST) == (A,)
        assert reads(regions.primary) == 2
        regions.primary.pause()
        with pytest.raises(IndexUnavailableError):
            await index.sources(ONE, DEST)
        await index.aclose()


@both
async def test_a_preferred_server_is_asked_first(start_server: StartServer, flavour: str) -> None:
    """The servers whose host names have the preferred part come first as long as one of them answers."""
    one, other = start_server(), start_server()
    nodes = f"127.0.0.1:{one.port},localhost:{other.port}"
    index = opened(f"redis://{nodes}/0?read_from=nearest&prefer=LOCAL", flavour)
    assert await index.sources(ONE, DEST) == ()
    assert (reads(one), reads(other)) == (0, 1)
    other.stop()
    assert await index.sources(ONE, DEST) == ()
    assert reads(one) == 1
    await index.aclose()


@both
@pytest.mark.parametrize("prefer", ["", "&prefer=127.0.0"])
async def test_the_nearest_server_of_a_cluster(cluster: Cluster, flavour: str, prefer: str) -> None:
    """Each shard of a Cluster is read from one of its servers, and from another one where that is silent."""
    index = opened(f"{cluster.url}?read_from=nearest{prefer}", flavour)
    forty = [layer(number) for number in range(40)]
    await index.record([Sighting(one, A) for one in forty])
    for master in cluster.masters():
        with master.client() as client:
            client.wait(1, 0)
    assert all(known.sources == (A,) for known in (await index.look_up(forty, DEST)).layers.values())
    cluster.nodes[-1].pause()
    assert all(known.sources == (A,) for known in (await index.look_up(forty, DEST)).layers.values())
    await index.aclose()


@both
async def test_the_nearest_server_that_sentinels_name(sentinels: Sentinels, flavour: str) -> None:
    """Behind sentinels the replicas and the master are asked, whoever answers first."""
    index = opened(f"{sentinels.url}?read_from=nearest", flavour)
    await index.record([Sighting(ONE, A)])
    with sentinels.client() as client:
        client.wait(2, 0)
    assert await index.sources(ONE, DEST) == (A,)
    for replica in sentinels.replicas():
        replica.pause()
    assert await index.sources(ONE, DEST) == (A,)
    await index.aclose()


FAR, NEAR, SILENT = ("far", 1), ("near", 1), ("silent", 1)


class Pings:
    """Servers that answer a PING when they are told to."""

    def __init__(self) -> None:
        self.asked: list[Node] = []
        self.far = threading.Event()

    def ping(self, node: Node) -> None:
        """Answer at once if the server is near."""
        self.asked.append(node)
        if node == SILENT:
            raise OSError
        if node == FAR:
            assert self.far.wait(PATIENCE)


def test_a_distant_server_delays_no_call() -> None:
    """A measurement returns with the first answer of each shard; the others rank last until they answer."""
    pings, clock = Pings(), Clock(0.0)
    trips = RoundTrips(pings.ping, "", clock)
    shards = [Shard(0, 1, FAR, (NEAR, SILENT)), Shard(2, 3, SILENT)]
    trips.measure(shards)
    assert sorted([FAR, NEAR], key=trips.rank) == [NEAR, FAR]
    trips.measure(shards)
    pings.far.set()
    clock.now += MEASURE_SECONDS + 1
    trips.measure(shards)
    until(lambda: sorted(pings.asked) == sorted([FAR, NEAR, SILENT] * 2), "not all are measured again")


def test_the_first_server_of_a_shard_by_rank_is_asked() -> None:
    """The nearest server is asked, be it a replica or the master; silent and excluded ones are not."""
    slots = SlotMap([Shard(0, 16383, FAR, (NEAR,))])
    get = ("GET", "x")

    def asked(near: float, *excluded: Node) -> Target:
        ranks = {NEAR: (False, near), FAR: (False, 1.0)}
        routing = CommandRouting([get], replicas=True, rank=ranks.__getitem__)
        (batch,) = routing.batches(slots, excluded=excluded)
        return batch.target

    assert asked(0.5) == Target(NEAR, replica=True)
    assert asked(2.0) == Target(FAR)
    assert asked(0.5, NEAR) == Target(FAR)
    assert asked(2.0, FAR) == Target(NEAR, replica=True)


def test_a_look_up_opens_the_connection_of_the_record(valkey: Server) -> None:
    """With the first look-up, and only with that, a connection for what follows is opened in the background."""
    links = [blocking_link(f"{valkey.url}?client_name={name}") for name in ("first", "later")]
    client = WarmingClient(links[0].client, links[1].client)
    for _ in range(2):
        assert client.run([("GET", "x")]) == [None]

    def names() -> list[str]:
        with valkey.client() as watcher:
            return sorted(each["name"] for each in watcher.client_list() if each["name"])

    until(lambda: names() == ["first", "later"], "nothing was opened")
    assert [server.where for server in client.servers()] == [client.where]
    client.close()
    links[1].client.close()


def test_a_primary_that_is_gone_fails_no_look_up(valkey: Server) -> None:
    """What goes wrong in the background is left to the call that needs it."""
    gone = blocking_link("redis://127.0.0.1:1").client
    client = WarmingClient(blocking_link(valkey.url).client, gone)
    assert client.run([("GET", "x")]) == [None]
    with pytest.raises(IndexFailedError):
        gone.run([("GET", "x")])
    client.close()
