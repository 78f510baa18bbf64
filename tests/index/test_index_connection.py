"""Servers that do not serve: whatever is wrong, the error is ours, says what, and holds no secret."""

import asyncio
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import fakeredis
import pytest
import redis
from redis import exceptions

from crossmount._blocking import run_now
from crossmount.errors import (
    IndexFailedError,
    IndexRefusedError,
    IndexUnavailableError,
    InvalidIndexURLError,
    InvalidInputError,
)
from crossmount.index import MemoryMountIndex, RedisMountIndex, Sighting, open_index
from crossmount.index import blocking as blocking_index
from crossmount.index.connection import TIMEOUT_SECONDS, async_link, blocking_link
from crossmount.index.embedded import ensure_running, stop
from crossmount.index.embedded_files import Place, locate
from crossmount.index.link import (
    CALL_SECONDS,
    BlockingLink,
    Command,
    Link,
    ScriptMissingError,
    WrongTypeError,
    redis_errors,
)
from crossmount.index.opening import blocking_index_links
from crossmount.index.started import StartedLink
from support.index_kit import layer, repo
from support.servers import Server, StartServer

PING: list[Command] = [("PING",)]
SECRET = "hunter2secret"


async def ask(url: str, flavour: str, commands: list[Command] = PING) -> IndexFailedError:
    """Send commands to a server that does not serve, and return the error."""
    link: Link = async_link(url) if flavour == "async" else blocking_link(url)
    try:
        with pytest.raises(IndexFailedError) as caught:
            raise_first(await link.run(commands) if flavour == "async" else run_now(link.run(commands)))
    finally:
        await link.aclose()
    message = str(caught.value)
    assert SECRET not in message
    assert "\n" not in message
    assert "index at" in message
    return caught.value


def raise_first(replies: list[object]) -> None:
    """Raise the first reply that is an error of ours."""
    for reply in replies:
        if isinstance(reply, IndexFailedError):
            raise reply


both = pytest.mark.parametrize("flavour", ["async", "blocking"])


class Peer:
    """A TCP server that answers whatever comes with fixed bytes, or with nothing.

    Attributes:
        accepted: how many connections were made.
    """

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.accepted = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"redis://user:{SECRET}@127.0.0.1:{self.port}/0"

    @property
    def plain_url(self) -> str:
        """Where it listens, without asking for a login."""
        return f"redis://127.0.0.1:{self.port}/0"

    def close(self) -> None:
        """Stop listening, and close what is open."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        for connection in (self._listener, *self._open):
            connection.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            self._open.append(connection)
            if self.answer and connection.recv(65536):
                connection.sendall(self.answer)


@contextmanager
def peer(answer: bytes = b"") -> Iterator[Peer]:
    """Run such a server."""
    server = Peer(answer)
    try:
        yield server
    finally:
        server.close()


@both
async def test_a_refused_port(flavour: str) -> None:
    """Where nobody listens, the index is unavailable."""
    with socket.create_server(("127.0.0.1", 0)) as bound:
        port = bound.getsockname()[1]
    error = await ask(f"redis://user:{SECRET}@127.0.0.1:{port}/0", flavour)
    assert isinstance(error, IndexUnavailableError)
    assert f"redis://127.0.0.1:{port}" in str(error)


@both
async def test_a_missing_socket(flavour: str, tmp_path: Path) -> None:
    """A unix socket that is not there is an index that is unavailable."""
    assert isinstance(await ask(f"unix://{tmp_path}/none", flavour), IndexUnavailableError)


@both
@pytest.mark.parametrize("host", ["nowhere.invalid", "xn--a.invalid"])
async def test_an_unknown_host(flavour: str, host: str) -> None:
    """A name that means nothing is an index that is unavailable."""
    assert isinstance(await ask(f"redis://{host}/0", flavour), IndexUnavailableError)


@both
async def test_a_silent_server_is_asked_twice_and_left(flavour: str) -> None:
    """A server that accepts and says nothing costs two time-outs: one try and one more, on a fresh connection."""
    with peer() as silent:
        assert isinstance(await ask(silent.plain_url, flavour), IndexUnavailableError)
        assert silent.accepted == 2
    assert 2 * TIMEOUT_SECONDS < CALL_SECONDS


@both
async def test_a_server_that_closes_at_once(flavour: str, start_server: StartServer) -> None:
    """A server that was stopped is unavailable, and serves again once it is back, by the same link."""
    server = start_server()
    link: Link = async_link(server.url) if flavour == "async" else blocking_link(server.url)

    async def run() -> list[object]:
        return await link.run(PING) if flavour == "async" else run_now(link.run(PING))

    assert await run() == [True]
    server.stop()
    with pytest.raises(IndexUnavailableError):
        await run()
    server.restart()
    assert await run() == [True]
    await link.aclose()


@both
@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad\r\n\r\n", b"\x15\x03\x01\x00\x02", b"*-7\r\n", b"$x\r\n"])
async def test_a_server_of_another_kind(flavour: str, answer: bytes) -> None:
    """What does not speak the protocol is an index that fails, whatever it says."""
    with peer(answer) as other:
        await ask(other.plain_url, flavour)


@both
@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"-LOADING Redis is loading the dataset in memory\r\n", IndexRefusedError),
        (b"-READONLY You can't write against a read only replica.\r\n", IndexRefusedError),
        (b"-OOM command not allowed when used memory > 'maxmemory'.\r\n", IndexRefusedError),
        (b"-NOAUTH Authentication required.\r\n", IndexRefusedError),
        (b"-NOPERM No permissions to run the command\r\n", IndexRefusedError),
        (b"-MASTERDOWN Link with MASTER is down\r\n", IndexRefusedError),
        (b"-MOVED 1234 127.0.0.1:1\r\n", IndexRefusedError),
        (b"-MISCONF Errors writing to disk\r\n", IndexRefusedError),
        (b"-BUSY Redis is busy running a script\r\n", IndexRefusedError),
        (b"-ERR max number of clients reached\r\n", IndexFailedError),
        (b"-NOSCRIPT No matching script.\r\n", ScriptMissingError),
        (b"-WRONGTYPE Operation against a key\r\n", WrongTypeError),
        (b"-ERR a\x1b[31m \xff two words\r\n", IndexRefusedError),
    ],
)
async def test_what_a_server_refuses(flavour: str, answer: bytes, kind: type[IndexFailedError]) -> None:
    """A server's no is told as a refusal, in its own words, on one line without control characters."""
    with peer(answer) as refusing:
        error = await ask(refusing.plain_url, flavour)
    assert isinstance(error, kind)
    assert str(error).isprintable()


@both
async def test_a_password_that_a_server_repeats(flavour: str) -> None:
    """A server that repeats the login does not make us write the password down."""
    with peer(f"-ERR unknown command AUTH, args: user {SECRET}\r\n".encode()) as chatty:
        assert "***" in str(await ask(chatty.url, flavour))


@both
async def test_a_wrong_password(flavour: str, start_server: StartServer) -> None:
    """A login that is refused, or missing, is a refusal."""
    server = start_server("--requirepass", "right")
    wrong = await ask(f"redis://:{SECRET}@127.0.0.1:{server.port}/0", flavour)
    assert isinstance(wrong, IndexRefusedError)
    assert isinstance(await ask(server.url, flavour), IndexRefusedError)


@both
async def test_no_such_database(flavour: str, valkey: Server) -> None:
    """A database that the server does not have is a refusal."""
    assert isinstance(await ask(f"redis://127.0.0.1:{valkey.port}/999", flavour), IndexRefusedError)


@both
async def test_a_full_server(flavour: str, start_server: StartServer) -> None:
    """A server without memory to spare refuses what is recorded, and still answers what is asked."""
    server = start_server("--maxmemory", "1", "--maxmemory-policy", "noeviction")
    link: Link = async_link(server.url) if flavour == "async" else blocking_link(server.url)
    index = RedisMountIndex(link)

    async def drive() -> None:
        with pytest.raises(IndexRefusedError, match="maxmemory"):
            await index.record([Sighting(layer(), repo("a"))])
        assert await index.sources(layer(), repo("b")) == ()
        await index.aclose()

    if flavour == "async":
        await drive()
    else:
        run_now(drive())


@both
async def test_a_replica(flavour: str, start_server: StartServer, valkey: Server) -> None:
    """A replica takes no recording, and says so."""
    server = start_server()
    with redis.Redis.from_url(server.url) as raw:
        raw.replicaof("127.0.0.1", valkey.port)
    commands: list[Command] = [("HSET", "crossmount:x", "a", "b")]
    assert "read only" in str(await ask(server.url, flavour, commands))


@both
async def test_tls_to_a_plain_server(flavour: str, valkey: Server) -> None:
    """A server without TLS cannot be reached by rediss."""
    error = await ask(f"rediss://127.0.0.1:{valkey.port}/0", flavour)
    assert isinstance(error, IndexUnavailableError)


def foreign() -> list[Exception]:
    """Return one of each exception of redis-py, and of what lies below it."""
    kinds = [kind for kind in vars(exceptions).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    made: list[Exception] = []
    for kind in kinds:
        if kind.__module__ != exceptions.__name__ or kind.__name__ == "IncorrectPolicyType":
            continue  # that one is about policies of a cluster's client, which is not used
        try:
            made.append(kind(f"12 127.0.0.1:1 {SECRET}"))
        except (ValueError, TypeError):
            made.append(kind("12 127.0.0.1:1"))
    return [*made, OSError(5, "x"), ssl.SSLError("x"), TimeoutError(), ConnectionResetError(), UnicodeError("x")]


@pytest.mark.parametrize("error", foreign(), ids=lambda error: type(error).__name__)
def test_no_foreign_exception_passes(error: Exception) -> None:
    """Every foreign exception becomes one of ours; its cause stays behind it unless it tells a secret."""
    with pytest.raises(IndexFailedError) as caught, redis_errors("here", [SECRET]):
        raise error
    assert caught.value.__cause__ is (None if SECRET in str(error) else error)
    assert "here" in str(caught.value)
    assert SECRET not in str(caught.value)


def test_our_own_defects_pass() -> None:
    """A defect is not an index that fails."""
    with pytest.raises(KeyError), redis_errors("here"):
        raise KeyError


@pytest.mark.parametrize("turns", range(8))
async def test_a_cancelled_call_leaves_no_reply_behind(valkey: Server, turns: int) -> None:
    """A call ends when it is cancelled, at whatever moment, and the next one gets its own reply."""
    link = async_link(valkey.unix_url)
    await link.run(PING)
    call = asyncio.create_task(link.run([("BLPOP", "nothing", 5), ("ECHO", "old")]))
    for _ in range(turns):
        await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert await link.run([("ECHO", "new")]) == [b"new"]
    await link.aclose()


def test_another_event_loop_is_told(valkey: Server) -> None:
    """A link used in a second event loop says so, as an index that does not serve."""

    async def use(link: Link) -> None:
        try:
            await link.run(PING)
        finally:
            await link.aclose()

    link = async_link(valkey.unix_url)
    asyncio.run(use(link))
    with pytest.raises(IndexUnavailableError, match="another event loop"):
        asyncio.run(use(link))


async def test_more_calls_than_connections(valkey: Server) -> None:
    """Calls beyond the pool wait for their turn."""
    link = async_link(valkey.unix_url)
    assert await asyncio.gather(*(link.run(PING) for _ in range(100))) == [[True]] * 100
    await link.aclose()


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
def place(tmp_path: Path) -> Iterator[Place]:
    """Give a place for an embedded server of the test's own."""
    place = locate({"CROSSMOUNT_STATE_DIR": str(tmp_path / "a % b?#")}, uid=os.geteuid(), host="h")
    yield place
    stop(place)


async def test_an_embedded_server_is_started_and_started_again(place: Place) -> None:
    """The first call starts the server; a call after it was stopped starts it again, and finds what was kept."""

    async def start() -> Path:
        return await asyncio.to_thread(ensure_running, place)

    async with RedisMountIndex(StartedLink(start, async_link)) as index:
        await index.add_source(layer(), repo("a"))
        await asyncio.to_thread(stop, place)
        assert await index.sources(layer(), repo("b")) == (repo("a"),)


def test_an_embedded_server_is_started_by_many_threads(place: Place) -> None:
    """Threads that come at once share one link, blocking, also when the server went away under them."""

    async def start() -> Path:
        return ensure_running(place)

    with blocking_index.RedisMountIndex(StartedLink(start, blocking_link)) as index:
        for _ in range(2):
            in_threads(lambda i: index.add_source(layer(i), repo("a")))
            stop(place)
        in_threads(lambda i: index.sources(layer(i), repo("b")))


def in_threads(work: Callable[[int], object], count: int = 8) -> None:
    """Do work in threads at once, and raise what any of them raised."""
    errors: list[BaseException] = []
    ready = threading.Barrier(count)

    def one(number: int) -> None:
        try:
            ready.wait(10)
            work(number)
        except BaseException as error:  # noqa: BLE001 told by the main thread
            errors.append(error)

    threads = [threading.Thread(target=one, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


async def test_a_started_link_that_was_never_used_closes() -> None:
    """Closing what was not opened does nothing, and starts nothing."""

    async def start() -> Path:
        raise AssertionError

    link = StartedLink(start, async_link)
    await link.aclose()
    assert "embedded" in link.where


@pytest.mark.parametrize("url", ["memory:", "memory://"])
def test_memory_urls(url: str) -> None:
    """A memory URL is an index of this process."""
    assert isinstance(open_index(url), MemoryMountIndex)
    assert isinstance(blocking_index.open_index(url), blocking_index.MemoryMountIndex)


@pytest.mark.parametrize("kind", ["url", "unix_url"])
async def test_server_urls(valkey: Server, kind: str) -> None:
    """A server's URL is an index on it, in the namespace that was given, in both flavours."""
    url = getattr(valkey, kind)
    async with open_index(url, namespace="mine") as index:
        await index.add_source(layer(), repo("a"))
    with blocking_index.open_index(url, namespace="mine") as same, blocking_index.open_index(url) as other:
        assert same.sources(layer(), repo("b")) == (repo("a"),)
        assert other.sources(layer(), repo("b")) == ()


async def test_the_environment_names_the_index(valkey: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a URL the environment's is used; a URL that is given comes first."""
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
    url: str | None, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a URL anywhere the embedded index is opened, and started by the first use."""
    monkeypatch.delenv("CROSSMOUNT_INDEX", raising=False)
    monkeypatch.setenv("CROSSMOUNT_STATE_DIR", str(place.folder.parent))
    async with open_index(url) as index:
        assert not place.folder.exists()
        await index.add_source(layer(), repo("a"))
    with blocking_index.open_index(url) as same:
        assert same.sources(layer(), repo("b")) == (repo("a"),)
    assert isinstance(blocking_index_links(url, None)[0], StartedLink)


@pytest.mark.parametrize("url", ["memory:", "redis://h"])
def test_a_bad_namespace_is_refused(url: str) -> None:
    """A namespace is checked whatever the index is, so that a mistake does not hide until a server is used."""
    with pytest.raises(InvalidInputError):
        open_index(url, namespace="a:b")
    with pytest.raises(InvalidInputError):
        blocking_index.open_index(url, namespace="a:b")


async def test_fakes_serve() -> None:
    """A link takes any client of redis-py, as users' tests with fakeredis do."""
    link = BlockingLink(fakeredis.FakeRedis(server=fakeredis.FakeServer()), "fake")
    assert run_now(link.run(PING)) == [True]
    await link.aclose()
