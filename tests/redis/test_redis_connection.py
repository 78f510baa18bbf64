"""Servers that fail: the error is ours, names the cause, and contains no secret."""

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import redis
from crossmount._blocking import run_now
from crossmount.errors import IndexFailedError, IndexRefusedError, IndexUnavailableError
from crossmount.index import RedisMountIndex, Sighting
from crossmount.redis.call import CALL_SECONDS
from crossmount.redis.link import Link
from crossmount.redis.pipeline import TIMEOUT_SECONDS
from crossmount.redis.replies import Command, ReplyReader, ScriptMissingError, WrongTypeError
from redis import exceptions
from support.index_kit import layer, repo
from support.links import async_link, blocking_link
from support.servers import Server, StartServer

PING: list[Command] = [("PING",)]
SECRET = "hunter2secret"


async def ask(url: str, flavour: str, commands: list[Command] = PING) -> IndexFailedError:
    """Send commands to a server that fails, and return the error."""
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
    """A TCP server that answers any request with fixed bytes, or with nothing.

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
        """Its URL."""
        return f"redis://user:{SECRET}@127.0.0.1:{self.port}/0"

    @property
    def plain_url(self) -> str:
        """Its URL without a login."""
        return f"redis://127.0.0.1:{self.port}/0"

    def close(self) -> None:
        """Stop listening, and close the open connections."""
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
    """If nothing listens on the port, the index is unavailable."""
    with socket.create_server(("127.0.0.1", 0)) as bound:
        port = bound.getsockname()[1]
    error = await ask(f"redis://user:{SECRET}@127.0.0.1:{port}/0", flavour)
    assert isinstance(error, IndexUnavailableError)
    assert f"redis://127.0.0.1:{port}" in str(error)


@both
async def test_a_missing_socket(flavour: str, tmp_path: Path) -> None:
    """If the unix socket does not exist, the index is unavailable."""
    assert isinstance(await ask(f"unix://{tmp_path}/none", flavour), IndexUnavailableError)


@both
@pytest.mark.parametrize("host", ["nowhere.invalid", "xn--a.invalid"])
async def test_an_unknown_host(flavour: str, host: str) -> None:
    """If the host name cannot be resolved, the index is unavailable."""
    assert isinstance(await ask(f"redis://{host}/0", flavour), IndexUnavailableError)


@both
async def test_a_silent_server_is_asked_twice_and_left(flavour: str) -> None:
    """A silent server costs two time-outs: one attempt, and a second one on a new connection."""
    with peer() as silent:
        assert isinstance(await ask(silent.plain_url, flavour), IndexUnavailableError)
        assert silent.accepted == 2
    assert 2 * TIMEOUT_SECONDS < CALL_SECONDS


@both
async def test_a_server_that_closes_at_once(flavour: str, start_server: StartServer) -> None:
    """A stopped server is unavailable; after a restart the same link works again."""
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
    """Any answer of a server of another protocol is an index error."""
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
    """An error reply is a refusal with the server's own words, on one line, without control characters."""
    with peer(answer) as refusing:
        error = await ask(refusing.plain_url, flavour)
    assert isinstance(error, kind)
    assert str(error).isprintable()


@both
async def test_a_password_that_a_server_repeats(flavour: str) -> None:
    """If an error reply repeats the password, our message does not."""
    with peer(f"-ERR unknown command AUTH, args: user {SECRET}\r\n".encode()) as chatty:
        assert "***" in str(await ask(chatty.url, flavour))


@both
async def test_a_wrong_password(flavour: str, start_server: StartServer) -> None:
    """A wrong or missing login is a refusal."""
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
    """A server that is out of memory refuses records, and still answers look-ups."""
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
    """A replica refuses records."""
    server = start_server()
    with redis.Redis.from_url(server.url) as raw:
        raw.replicaof("127.0.0.1", valkey.port)
    commands: list[Command] = [("HSET", "crossmount:x", "a", "b")]
    assert "read only" in str(await ask(server.url, flavour, commands))


@both
async def test_tls_to_a_plain_server(flavour: str, valkey: Server) -> None:
    """A server without TLS is unavailable under a rediss:// URL."""
    error = await ask(f"rediss://127.0.0.1:{valkey.port}/0", flavour)
    assert isinstance(error, IndexUnavailableError)


def foreign() -> list[Exception]:
    """Return one of each exception of redis-py and of the modules below it."""
    kinds = [kind for kind in vars(exceptions).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    made: list[Exception] = []
    for kind in kinds:
        if kind.__module__ != exceptions.__name__ or kind.__name__ == "IncorrectPolicyType":
            continue  # raised only by redis-py's Cluster client, which is not used
        try:
            made.append(kind(f"12 127.0.0.1:1 {SECRET}"))
        except (ValueError, TypeError):
            made.append(kind("12 127.0.0.1:1"))
    return [*made, OSError(5, "x"), ssl.SSLError("x"), TimeoutError(), ConnectionResetError(), UnicodeError("x")]


@pytest.mark.parametrize("error", foreign(), ids=lambda error: type(error).__name__)
def test_no_foreign_exception_passes(error: Exception) -> None:
    """Every foreign exception becomes one of ours, and is its cause unless it contains a secret."""
    with pytest.raises(IndexFailedError) as caught, ReplyReader("here", {}, [SECRET]).errors():
        raise error
    assert caught.value.__cause__ is (None if SECRET in str(error) else error)
    assert "here" in str(caught.value)
    assert SECRET not in str(caught.value)


def test_our_own_defects_pass() -> None:
    """An exception that only a defect raises is not translated."""
    with pytest.raises(KeyError), ReplyReader("here", {}, ()).errors():
        raise KeyError
