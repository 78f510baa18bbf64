"""`open_index`: URLs and their parts, the environment, and the embedded index by default."""

import asyncio
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from crossmount.embedded.files import EmbeddedPaths, locate
from crossmount.embedded.lifecycle import OnDemandClient, ensure_running, stop
from crossmount.errors import IndexUnavailableError, InvalidIndexURLError, InvalidInputError
from crossmount.index import MemoryMountIndex, RedisMountIndex, open_index
from crossmount.index import blocking as blocking_index
from crossmount.index.opening import clients_of
from crossmount.redis.address import Address
from crossmount.redis.call import Call
from crossmount.redis.client import Client
from crossmount.redis.connection import connect
from crossmount.redis.link import BlockingLink, ThreadedLink
from crossmount.redis.replies import Command
from support.index_kit import layer, repo
from support.links import async_link
from support.servers import Server, StartServer
from support.waiting import PATIENCE


async def test_a_url_s_parts_reach_the_server(start_server: StartServer) -> None:
    """Login, database and client name of a URL are used, over TCP and over a socket."""
    server = start_server("--requirepass", "a/b#c")
    login = ":a%2Fb%23c"
    for url in (f"redis://{login}@127.0.0.1:{server.port}/3?", f"unix://{login}@{server.socket}?db=3&"):
        link = async_link(f"{url}client_name=ci")
        (info,) = await link.run([("CLIENT", "INFO")])
        assert {b"db=3", b"name=ci"} <= set(info.split())
        await link.aclose()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[EmbeddedPaths]:
    """Return a folder for an embedded server of this test alone."""
    place = locate({"CROSSMOUNT_STATE_DIR": str(tmp_path / "a % b?#")}, uid=os.geteuid(), host="h")
    yield place
    stop(place)


def to_socket(path: Path) -> Client:
    """Return a client of a unix socket."""
    return connect(Address(scheme="unix", path=str(path)))


async def test_an_embedded_server_is_started_and_started_again(place: EmbeddedPaths) -> None:
    """The first call starts the server; a call after a stop starts it again, and its data is still there."""
    client = OnDemandClient(partial(ensure_running, place), to_socket)
    async with RedisMountIndex(ThreadedLink(client)) as index:
        await index.add_source(layer(), repo("a"))
        await asyncio.to_thread(stop, place)
        assert await index.sources(layer(), repo("b")) == (repo("a"),)


def test_an_embedded_server_is_started_by_many_threads(place: EmbeddedPaths) -> None:
    """Concurrent threads share one blocking link, also after the server ended."""
    client = OnDemandClient(partial(ensure_running, place), to_socket)
    with blocking_index.RedisMountIndex(BlockingLink(client)) as index:
        for _ in range(2):
            in_threads(lambda i: index.add_source(layer(i), repo("a")))
            stop(place)
        in_threads(lambda i: index.sources(layer(i), repo("b")))


def in_threads(work: Callable[[int], object], count: int = 8) -> None:
    """Run a function in several threads at once, and raise the error of any of them."""
    errors: list[BaseException] = []
    ready = threading.Barrier(count)

    def one(number: int) -> None:
        try:
            ready.wait(PATIENCE)
            work(number)
        except BaseException as error:  # noqa: BLE001 told by the main thread
            errors.append(error)

    threads = [threading.Thread(target=one, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


class Stopped:
    """A client whose server does not run; it notes the calls."""

    where = "nowhere"

    def __init__(self) -> None:
        self.calls: list[tuple[Call | None, float]] = []

    def run(self, commands: Sequence[Command], call: Call | None = None) -> list[Any]:
        """Fail."""
        self.calls.append((call, 0.0 if call is None else call.made))
        raise IndexUnavailableError(f"nothing answers {commands}")

    def servers(self) -> Sequence[Client]:
        """Return this client."""
        return [self]

    def close(self) -> None:
        """Do nothing."""


def test_a_second_attempt_belongs_to_the_same_call(tmp_path: Path) -> None:
    """A call that starts the server anew can still be cancelled, and is not failed by its first attempt."""
    stopped, call = Stopped(), Call()
    client = OnDemandClient(lambda: tmp_path, lambda _: stopped)
    for _ in range(2):  # the second run finds a client, and makes two attempts
        with pytest.raises(IndexUnavailableError):
            client.run([("PING",)], call)
    assert [each for each, _ in stopped.calls] == [call] * 3
    _, first, second = (made for _, made in stopped.calls)
    assert second > first


def test_an_on_demand_client_that_was_never_used_closes() -> None:
    """Closing an unused client starts no server."""

    def start() -> Path:
        raise AssertionError

    client = OnDemandClient(start, to_socket)
    client.close()
    assert "embedded" in client.where


@pytest.mark.parametrize("url", ["memory:", "memory://"])
def test_memory_urls(url: str) -> None:
    """A memory URL opens an index in this process."""
    assert isinstance(open_index(url), MemoryMountIndex)
    assert isinstance(blocking_index.open_index(url), blocking_index.MemoryMountIndex)


@pytest.mark.parametrize("kind", ["url", "unix_url"])
async def test_server_urls(valkey: Server, kind: str) -> None:
    """A server's URL opens an index on it, in the given namespace, in both flavours."""
    url = getattr(valkey, kind)
    async with open_index(url, namespace="mine") as index:
        await index.add_source(layer(), repo("a"))
    with blocking_index.open_index(url, namespace="mine") as same, blocking_index.open_index(url) as other:
        assert same.sources(layer(), repo("b")) == (repo("a"),)
        assert other.sources(layer(), repo("b")) == ()


async def test_the_environment_names_the_index(valkey: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a URL that of the environment is used; a given URL takes precedence."""
    monkeypatch.setenv("CROSSMOUNT_INDEX", valkey.url)
    async with open_index() as index:
        assert isinstance(index, RedisMountIndex)
        assert index.link.where == valkey.url.removesuffix("/0")
    assert isinstance(open_index("memory:"), MemoryMountIndex)
    monkeypatch.setenv("CROSSMOUNT_INDEX", "memory://")
    assert isinstance(open_index(), MemoryMountIndex)
    monkeypatch.setenv("CROSSMOUNT_INDEX", "nonsense")
    with pytest.raises(InvalidIndexURLError):
        open_index()
    with pytest.raises(InvalidIndexURLError):
        blocking_index.open_index()


@pytest.mark.parametrize("url", [None, "embedded:", "embedded://"])
async def test_the_embedded_index_is_the_default(
    url: str | None, place: EmbeddedPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without any URL the embedded index is opened, and its first use starts the server."""
    monkeypatch.delenv("CROSSMOUNT_INDEX", raising=False)
    monkeypatch.setenv("CROSSMOUNT_STATE_DIR", str(place.folder.parent))
    async with open_index(url) as index:
        assert not place.folder.exists()
        await index.add_source(layer(), repo("a"))
    with blocking_index.open_index(url) as same:
        assert same.sources(layer(), repo("b")) == (repo("a"),)
    assert isinstance(clients_of(url, None, asynchronous=False)[0], OnDemandClient)


@pytest.mark.parametrize("url", ["memory:", "redis://h"])
def test_a_bad_namespace_is_refused(url: str) -> None:
    """The namespace is checked for every kind of index, so that a mistake shows at once."""
    with pytest.raises(InvalidInputError):
        open_index(url, namespace="a:b")
    with pytest.raises(InvalidInputError):
        blocking_index.open_index(url, namespace="a:b")


@pytest.mark.parametrize("given", [None, ["c.example=b.example"]])
async def test_names_of_one_registry_are_given_or_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, given: list[str] | None
) -> None:
    """The variable holds pairs that commas separate; the argument replaces it, in both flavours."""
    monkeypatch.setenv("CROSSMOUNT_SAME_REGISTRY", "a.example=b.example, d.example:443=b.example")
    other = "a.example" if given is None else "c.example"
    index = open_index("memory://", same_registry=given)
    await index.add_source(layer(), repo(f"{other}/team/a"))
    assert await index.sources(layer(), repo("b.example/x")) == (repo("b.example/team/a"),)
    with blocking_index.open_index("memory://", same_registry=given) as blocking:
        blocking.add_source(layer(), repo("b.example/team/a"))
        assert blocking.sources(layer(), repo(f"{other}/x")) == (repo(f"{other}/team/a"),)


@pytest.mark.parametrize("open_it", [open_index, blocking_index.open_index])
def test_a_wrong_pair_opens_no_index(open_it: Callable[..., object]) -> None:
    """The error names the text and the grammar."""
    with pytest.raises(InvalidInputError, match=r"not a pair of registries: 'a.example': give A=B"):
        open_it("memory://", same_registry=["a.example"])
