"""The index under Sentinel: discovery, failover, logins, and sentinels that do not answer."""

from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest

import redis
from crossmount._blocking import run_now
from crossmount.errors import IndexFailedError, IndexRefusedError, IndexUnavailableError
from crossmount.index import Keys, RedisMountIndex, Sighting
from crossmount.redis import call
from support.index_kit import layer, repo
from support.links import async_link, blocking_link
from support.sentinels import Sentinels
from support.servers import Server
from support.waiting import PATIENCE

T = TypeVar("T")

A, B, DEST = repo("team/a"), repo("team/b"), repo("team/dest")
ONE = layer(1)

both = pytest.mark.parametrize("flavour", ["async", "blocking"])


class Opened:
    """An index in one of the flavours."""

    def __init__(self, url: str, flavour: str) -> None:
        self._flavour = flavour
        connect = async_link if flavour == "async" else blocking_link
        hints = connect(url, for_look_ups=True) if "read_from=replica" in url else None
        self.index = RedisMountIndex(connect(url), hints=hints)

    async def do(self, call: Coroutine[Any, Any, T]) -> T:
        """Await a call, or run it without an event loop in the blocking flavour."""
        return await call if self._flavour == "async" else run_now(call)

    async def refused(self) -> IndexFailedError:
        """Make a call, and return its error."""
        try:
            with pytest.raises(IndexFailedError) as caught:
                await self.do(self.index.sources(ONE, DEST))
        finally:
            await self.index.aclose()
        assert "hunter2secret" not in str(caught.value)
        assert "object at" not in str(caught.value)
        return caught.value


@both
async def test_a_failover_is_followed(sentinels: Sentinels, flavour: str) -> None:
    """After a failover the same link reads and records on the new master."""
    opened = Opened(sentinels.url, flavour)
    await opened.do(opened.index.add_source(ONE, A))
    with sentinels.client() as client:
        client.wait(2, 0)
    before = sentinels.master()
    after = sentinels.fail_over()
    assert after is not before
    await opened.do(opened.index.add_source(ONE, B))
    assert await opened.do(opened.index.sources(ONE, DEST)) == (A, B)
    await opened.index.aclose()


@both
async def test_a_master_that_was_demoted_is_left(sentinels: Sentinels, flavour: str) -> None:
    """After READONLY the connection is closed, and the sentinels are asked again."""
    opened = Opened(sentinels.url, flavour)
    await opened.do(opened.index.add_source(ONE, A))
    old, new = sentinels.master(), sentinels.replicas()[0]
    with old.client() as client, new.client() as other:
        client.wait(2, 0)
        sentinels.forget()
        other.replicaof("NO", "ONE")
        client.replicaof("127.0.0.1", new.port)
        sentinels.watch(new)
        await opened.do(opened.index.add_source(ONE, B))
        assert other.smembers(Keys().sources(ONE, "r.example")) == {b"team/a", b"team/b"}
    await opened.index.aclose()


@both
async def test_a_sentinel_that_is_gone_is_passed_over(sentinels: Sentinels, flavour: str) -> None:
    """With a dead and a silent sentinel there is enough time to ask the third one."""
    sentinels.sentinels[0].stop()
    sentinels.sentinels[1].pause()
    opened = Opened(sentinels.url, flavour)
    assert await opened.do(opened.index.sources(ONE, DEST)) == ()
    await opened.index.aclose()


@both
async def test_no_sentinel_at_all(flavour: str, closed_port: int) -> None:
    """If no sentinel answers, the index is unavailable, and the error says so in plain words."""
    url = f"redis+sentinel://u:hunter2secret@127.0.0.1:{closed_port}/main"
    error = await Opened(url, flavour).refused()
    assert isinstance(error, IndexUnavailableError)
    assert f"redis+sentinel://127.0.0.1:{closed_port}/main" in str(error)
    assert "no sentinel that answers knows a master" in str(error)


@both
async def test_a_service_that_nobody_knows(sentinels: Sentinels, flavour: str) -> None:
    """If no sentinel knows the service, the error names it."""
    error = await Opened(sentinels.url.replace("/main", "/mian"), flavour).refused()
    assert isinstance(error, IndexUnavailableError)
    assert "/mian" in str(error)
    assert "no sentinel that answers knows a master" in str(error)


@both
async def test_a_server_that_is_no_sentinel(sentinels: Sentinels, flavour: str) -> None:
    """A server named as a sentinel, or a sentinel as a server, is an error that names the scheme to use."""
    plain, sentinel = sentinels.servers[0].port, sentinels.sentinels[0].port
    error = await Opened(f"redis+sentinel://127.0.0.1:{plain}/main", flavour).refused()
    assert isinstance(error, IndexRefusedError)
    assert str(error).endswith(": give a redis:// URL")
    error = await Opened(f"redis://127.0.0.1:{sentinel}", flavour).refused()
    assert isinstance(error, IndexRefusedError)
    assert str(error).endswith(": if it is a sentinel, give a redis+sentinel:// URL")


@both
async def test_a_wrong_password_for_the_servers(sentinels: Sentinels, flavour: str) -> None:
    """A login that the master rejects is a refusal."""
    error = await Opened(sentinels.url.replace("a%20pass", "hunter2secret"), flavour).refused()
    assert isinstance(error, IndexRefusedError)


@both
async def test_sentinels_have_a_login_of_their_own(sentinels: Sentinels, flavour: str) -> None:
    """Sentinels get their own login, never the servers'; without one the error names the option."""
    for sentinel in sentinels.sentinels:
        with sentinel.client() as client:
            client.execute_command("ACL SETUSER", "watcher", "on", ">sentinels own", "+@all", "allchannels")
            client.execute_command("ACL SETUSER", "default", "resetpass", ">nobody's")
    try:
        error = await Opened(sentinels.url, flavour).refused()
        assert isinstance(error, IndexRefusedError)
        assert "sentinel_password_file" in str(error)
        error = await Opened(f"{sentinels.url}?sentinel_password=hunter2secret", flavour).refused()
        assert "sentinel_password_file" in str(error)
        login = "sentinel_username=watcher&sentinel_password=sentinels%20own"
        opened = Opened(f"{sentinels.url}?{login}", flavour)
        await opened.do(opened.index.add_source(ONE, A))
        assert await opened.do(opened.index.sources(ONE, DEST)) == (A,)
        await opened.index.aclose()
    finally:
        for sentinel in sentinels.sentinels:
            with redis.Redis(
                unix_socket_path=str(sentinel.socket), username="watcher", password="sentinels own"
            ) as client:
                client.execute_command("ACL SETUSER", "default", "nopass")
                client.execute_command("ACL DELUSER", "watcher")


@both
async def test_look_ups_go_to_replicas_on_request(sentinels: Sentinels, flavour: str) -> None:
    """With read_from=replica look-ups go to replicas, and to the master if there are none."""
    opened = Opened(f"{sentinels.url}?read_from=replica", flavour)
    await opened.do(opened.index.record([Sighting(ONE, A)]))
    with sentinels.client() as client:
        client.wait(2, 0)
    master, replicas = sentinels.master(), sentinels.replicas()
    before = called(master)
    assert await opened.do(opened.index.sources(ONE, DEST)) == (A,)
    assert called(master) == before
    assert sum(map(called, replicas)) > 0
    for replica in replicas:
        replica.stop()
    assert await opened.do(opened.index.sources(ONE, DEST)) == (A,)
    assert called(master) > before
    await opened.index.aclose()


@both
async def test_silent_replicas_are_passed_by_and_remembered(
    sentinels: Sentinels, flavour: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the replicas fall silent, the same look-up and all later ones are answered by the master."""
    monkeypatch.setattr(call, "CALL_SECONDS", PATIENCE)  # two time-outs, and what a busy machine adds to them
    opened = Opened(f"{sentinels.url}?read_from=replica", flavour)
    await opened.do(opened.index.record([Sighting(ONE, A)]))
    with sentinels.client() as client:
        client.wait(2, 0)
    assert await opened.do(opened.index.sources(ONE, DEST)) == (A,)
    master = sentinels.master()
    before = called(master)
    for replica in sentinels.replicas():
        replica.pause()
    for _ in range(3):
        assert await opened.do(opened.index.sources(ONE, DEST)) == (A,)
    assert called(master) > before
    other = Opened(f"{sentinels.url}?read_from=replica", flavour)
    assert await opened.do(other.index.sources(ONE, DEST)) == (A,)
    await opened.index.aclose()
    await other.index.aclose()


def called(server: Server) -> int:
    """Return how many HGETALL commands a server received."""
    with server.client() as client:
        return int(client.info("commandstats").get("cmdstat_hgetall", {}).get("calls", 0))
