"""An index on a Cluster: replicas, scans of all servers, and many callers of one link."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from crossmount.index import Keys, Sighting, open_index
from crossmount.index.blocking import inline, threaded
from crossmount.index.blocking import open_index as open_blocking
from crossmount.index.protocol import backing_server
from crossmount.redis.execute import scan_keys
from support.cluster import Cluster, another, in_step, slot
from support.index_kit import layer, repo
from support.servers import Server

A, DEST = repo("team/a"), repo("team/dest")
ONE = layer(1)
FORTY = [layer(i) for i in range(40)]
KEYS = Keys()

both = pytest.mark.parametrize("flavour", ["async", "blocking"])


@both
async def test_look_ups_go_to_replicas_on_request(cluster: Cluster, flavour: str) -> None:
    """With read_from=replica look-ups go to replicas, also of one layer; records go to masters."""
    opened = open_index if flavour == "async" else lambda url: inline(open_blocking(url))
    index: Any = opened(f"{cluster.operator_url}?read_from=replica")
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
    """Return how many HGETALL commands a server received."""
    with server.client() as client:
        return int(client.info("commandstats").get("cmdstat_hgetall", {}).get("calls", 0))


async def test_a_replica_that_is_gone_is_replaced_by_its_master(cluster: Cluster) -> None:
    """If no replica answers, the same call asks the master."""
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
    """A scan yields the keys of every master."""
    opened = open_index if flavour == "async" else lambda url: threaded(open_blocking(url))
    index: Any = opened(cluster.operator_url)
    await index.record([Sighting(one, A) for one in FORTY])
    server = backing_server(index)
    assert server is not None
    found = {key async for key in scan_keys(server.link, "crossmount:default:{*}:sources:*", count=5)}
    assert found == {KEYS.sources(one, A.registry).encode() for one in FORTY}
    await index.aclose()


async def test_more_calls_than_connections(cluster: Cluster) -> None:
    """More calls than connections wait for their turn."""
    async with open_index(cluster.url) as index:
        await index.record([Sighting(one, A) for one in FORTY])
        found = await asyncio.gather(*(index.look_up(FORTY[:6], DEST) for _ in range(100)))
        assert all(knowledge.of(ONE).sources == (A,) for knowledge in found)


def test_threads_share_one_index(cluster: Cluster) -> None:
    """More threads than connections record without a loss while a slot moves to another server and back."""
    source = cluster.owner_of(slot(ONE))
    target = another(cluster, source)
    with open_blocking(cluster.url) as index, ThreadPoolExecutor(80) as pool:
        work = [pool.submit(index.add_source, layer(n % 10), repo(f"team/r{n // 10}")) for n in range(600)]
        for server in (target, source):
            cluster.move_slot(slot(ONE), server)
        for each in work:
            each.result()
        assert all(len(index.sources(layer(n), DEST)) == 60 for n in range(10))


@pytest.mark.parametrize("turns", range(6))
async def test_a_cancelled_call_leaves_no_reply_behind(cluster: Cluster, turns: int) -> None:
    """A call that is cancelled at any moment ends at once, and the next call gets its own replies."""
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
