"""Most of the servers that a URL names are silent, or others have taken their place."""

from collections.abc import Collection, Sequence
from typing import Any, cast

import pytest

from crossmount.errors import IndexUnavailableError
from crossmount.index import open_index
from crossmount.index.blocking import inline
from crossmount.index.blocking import open_index as open_blocking
from crossmount.redis.address import Node
from crossmount.redis.cluster import ClusterClient, Pools, ServerRequest
from crossmount.redis.connection import connect
from crossmount.redis.replies import Command, ReplyReader
from crossmount.redis.routing import CLUSTER_SLOTS
from crossmount.redis.url import parse_url
from redis import exceptions
from support.cluster import Cluster
from support.index_kit import Clock, layer, repo
from support.sentinels import Sentinels
from support.waiting import silent_servers

A, DEST = repo("team/a"), repo("team/dest")
ONE = layer(1)

both = pytest.mark.parametrize("flavour", ["async", "blocking"])


def opened(url: str, flavour: str) -> Any:
    """Open an index whose methods are coroutines in both flavours."""
    return open_index(url) if flavour == "async" else inline(open_blocking(url))


@both
async def test_a_cluster_is_found_behind_three_silent_seeds(cluster: Cluster, flavour: str) -> None:
    """The first call is answered, although the first three servers of the URL say nothing."""
    with silent_servers(3) as silent:
        seed = f"127.0.0.1:{cluster.masters()[0].port}"
        index = opened(f"redis+cluster://{cluster.login}{','.join([*silent, seed])}", flavour)
        await index.add_source(ONE, A)
        assert await index.sources(ONE, DEST) == (A,)
        await index.aclose()


@both
async def test_a_master_is_found_behind_three_silent_sentinels(sentinels: Sentinels, flavour: str) -> None:
    """The first call is answered, although the first three sentinels of the URL say nothing."""
    with silent_servers(3) as silent:
        awake = [f"127.0.0.1:{sentinel.port}" for sentinel in sentinels.sentinels[:2]]
        for read_from in ("", "?read_from=replica"):
            hosts = ",".join([*silent, *awake])
            index = opened(f"redis+sentinel://{sentinels.login}{hosts}/main{read_from}", flavour)
            await index.add_source(ONE, A)
            with sentinels.client() as client:
                client.wait(2, 0)
            assert await index.sources(ONE, DEST) == (A,)
            await index.aclose()


def test_a_sentinel_that_is_still_asked_at_the_close_keeps_no_connection(sentinels: Sentinels) -> None:
    """A connection to a sentinel that is opened while the client closes is closed when its answer has come."""
    client: Any = connect(parse_url(sentinels.url))
    pool = client._clients[1].connection_pool
    connection = pool.get_connection()
    client.close()
    connection.connect()
    pool.release(connection)
    assert connection._sock is None


@both
async def test_nothing_but_silence_ends_in_time(flavour: str) -> None:
    """If all servers of the URL are silent, the call ends with its deadline, and says so."""
    with silent_servers(3) as silent:
        for scheme, path in (("redis+cluster", ""), ("redis+sentinel", "/main")):
            index = opened(f"{scheme}://{','.join(silent)}{path}", flavour)
            with pytest.raises(IndexUnavailableError):
                await index.sources(ONE, DEST)
            await index.aclose()


SEED, OLD, NEW = ("name", 1), (("old", 1), ("old", 2)), (("new", 1), ("new", 2))
COMMANDS: list[Command] = [("GET", "{b}"), ("GET", "{a}")]  # one for each half of the slots


class Replaced:
    """Simulated servers behind a stable name. An established connection to the name leads to its old server.

    Attributes:
        masters: the servers that the name leads to.
        silent: servers that do not answer.
        asked: the servers of each exchange, the map aside.
    """

    def __init__(self) -> None:
        self.masters = OLD
        self.silent: set[Node] = set()
        self.asked: list[Node] = []
        self._connected: Node | None = None

    def exchange(self, requests: Sequence[ServerRequest]) -> list[list[Any] | Exception]:
        """Answer for the servers that are not silent."""
        return [self._answer(target.node, commands) for target, commands in requests]

    def _answer(self, node: Node, commands: Sequence[Command]) -> list[Any] | Exception:
        if commands != [CLUSTER_SLOTS]:
            self.asked.append(node)
        if node == SEED:
            node = self._connected = self._connected or self.masters[0]
        if node in self.silent:
            return exceptions.TimeoutError()
        low, high = self.masters
        slots = [[0, 7999, [*low]], [8000, 16383, [*high]]]
        return [slots if command == CLUSTER_SLOTS else node[1] for command in commands]

    def disconnect_idle(self, nodes: Collection[Node]) -> None:
        """Connect to the name anew the next time."""
        if SEED in nodes:
            self._connected = None

    def pause(self, seconds: float) -> None:
        """Do not wait."""

    def keep(self, nodes: Collection[Node]) -> None:
        """Do nothing."""


def client_of(servers: Replaced) -> ClusterClient:
    """Return a client that knows the name."""
    return ClusterClient(cast("Pools", servers), [SEED], ReplyReader("made up", {}, ()), clock=Clock(100.0))


def test_a_cluster_that_was_replaced_behind_its_name_is_found_by_the_same_call() -> None:
    """When all known servers are silent, the name leads the same call to the new ones."""
    servers = Replaced()
    client = client_of(servers)
    assert client.run(COMMANDS) == [1, 2]
    servers.masters, servers.silent = NEW, set(OLD)
    assert client.run(COMMANDS) == [1, 2]
    assert servers.asked[-2:] == [*NEW]


def test_after_an_outage_of_all_servers_the_map_is_asked_for_first() -> None:
    """A call after one that nobody answered sends nothing to the old servers before it has a new map."""
    servers = Replaced()
    client = client_of(servers)
    client.run(COMMANDS)
    servers.silent = {*OLD, *NEW}
    with pytest.raises(IndexUnavailableError):
        client.run(COMMANDS)
    servers.masters, servers.silent = NEW, set(OLD)
    servers.asked.clear()
    assert client.run(COMMANDS) == [1, 2]
    assert servers.asked == [*NEW]


def test_silent_seeds_are_asked_last_from_then_on() -> None:
    """The seed that answered is asked first by the next call that needs a map."""

    class Noted(Replaced):
        def _answer(self, node: Node, commands: Sequence[Command]) -> list[Any] | Exception:
            noted.append(node)
            return super()._answer(node, commands)

    noted: list[Node] = []
    servers, mute = Noted(), ("mute", 1)
    servers.silent = {mute}
    reader = ReplyReader("made up", {}, ())
    client = ClusterClient(cast("Pools", servers), [mute, SEED], reader, clock=Clock(100.0))
    client.servers()
    noted.clear()
    client.servers()
    assert noted == [SEED]
