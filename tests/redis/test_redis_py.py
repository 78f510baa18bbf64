"""The private parts of redis-py that `crossmount.redis.redis_py` uses are still there, and do what they did."""

import inspect
from typing import Any

import pytest
import redis.sentinel
from redis._parsers import _HiredisParser, _RESP2Parser
from redis._parsers.hiredis import NOT_ENOUGH_DATA
from redis.exceptions import BusyLoadingError, ResponseError

import redis
from crossmount.redis.redis_py import Pool, read_replies
from support.servers import Server
from support.waiting import PATIENCE

SEE = "redis-py changed a private part: adapt crossmount.redis.redis_py"

KINDS = [redis.Connection, redis.SSLConnection, redis.UnixDomainSocketConnection]


@pytest.mark.parametrize("kind", KINDS)
def test_a_connection_opens_its_socket_in_connect(kind: Any) -> None:
    """Each kind of connection has a method of its own that opens the socket, takes nothing and returns it."""
    assert "_connect" in vars(kind), SEE
    assert list(inspect.signature(kind._connect).parameters) == ["self"], SEE


@pytest.mark.parametrize("name", ["send_packed_command", "read_response", "can_read", "connect", "disconnect"])
def test_a_connection_has_the_methods_of_an_exchange(name: str) -> None:
    """Commands and replies go through methods that redis-py does not document."""
    assert callable(getattr(redis.Connection, name, None)), SEE


def test_a_connection_reads_through_the_socket_it_opened(valkey: Server) -> None:
    """The socket that `_connect` returns is `_sock`, which is None after the connection is closed."""
    opened: list[object] = []

    class Watched(redis.Connection):
        def _connect(self) -> Any:
            opened.append(super()._connect())  # type: ignore[no-untyped-call]  # redis-py's own gap
            return opened[-1]

    connection: Any = Watched(port=valkey.port)  # type: ignore[no-untyped-call]  # redis-py's own gap
    connection.connect()
    assert connection._sock is opened[0], SEE
    connection.disconnect()
    assert connection._sock is None, SEE


def test_a_pool_gives_its_last_connection_again(valkey: Server) -> None:
    """A pool keeps its idle connections, last in and first out; one that was closed counts as none."""
    pool: Any = Pool(host="127.0.0.1", port=valkey.port)
    assert pool.must_connect, SEE
    one, other = pool.get_connection(), pool.get_connection()
    for connection in (one, other):
        pool.release(connection)
    assert not pool.must_connect, SEE
    assert [pool.get_connection() for _ in range(2)] == [other, one]
    pool.release(one)
    pool.disconnect(inuse_connections=False)
    assert pool.must_connect, SEE
    assert other.can_read() is False, "a connection in use stays open"
    pool.disconnect()
    assert other._sock is None, SEE


def test_a_connection_with_a_reply_left_is_opened_again(valkey: Server) -> None:
    """The reply to an earlier command never reaches the next user of a connection."""
    pool: Any = Pool(host="127.0.0.1", port=valkey.port)
    connection = pool.get_connection()
    connection.send_command("ECHO", "old")
    assert connection.can_read(timeout=PATIENCE)
    pool.release(connection)
    assert pool.get_connection() is connection
    connection.send_command("ECHO", "new")
    assert connection.read_response() == b"new"
    pool.disconnect()


@pytest.mark.parametrize("parser", [_HiredisParser, _RESP2Parser])
def test_replies_are_read_in_order(valkey: Server, parser: Any) -> None:
    """Many replies, some of them errors, are read in their order, with hiredis and without."""
    connection: Any = redis.Connection(port=valkey.port, protocol=2, parser_class=parser)  # type: ignore[no-untyped-call]  # redis-py's own gap
    for number in range(500):
        connection.send_command(*(("ECHO", f"{number}:" + "x" * 1000) if number % 7 else ("NONE",)))
    replies = read_replies(connection, 499)
    for number, reply in enumerate(replies):
        assert reply == f"{number}:".encode() + b"x" * 1000 if number % 7 else isinstance(reply, ResponseError)
    assert read_replies(connection, 1) == [b"499:" + b"x" * 1000]
    assert parser is not _HiredisParser or connection._parser._reader.gets() is NOT_ENOUGH_DATA, SEE
    connection.disconnect()


def test_a_server_that_is_loading_ends_the_connection(valkey: Server) -> None:
    """A reply such as LOADING, which redis-py counts as a failed connection, is raised wherever it stands."""
    connection: Any = redis.Connection(port=valkey.port, protocol=2)  # type: ignore[no-untyped-call]  # redis-py's own gap
    script = "return redis.error_reply('LOADING Redis is loading the dataset in memory')"
    for command in (("PING",), ("EVAL", script, 0), ("PING",)):
        connection.send_command(*command)
    with pytest.raises(BusyLoadingError):
        read_replies(connection, 3)
    connection.disconnect()


def test_a_pool_of_sentinels_works_over_any_pool() -> None:
    """redis-py's pool behind Sentinel calls the next base class."""
    assert issubclass(redis.sentinel.SentinelConnectionPool, redis.ConnectionPool), SEE
    for name in ("get_master_address", "rotate_slaves", "reset"):
        assert callable(getattr(redis.sentinel.SentinelConnectionPool, name, None)), SEE
