"""The private parts of redis-py that `crossmount.redis.redis_py` uses are still there, and do what they did."""

import inspect
from typing import Any

import pytest
import redis.sentinel

import redis
from crossmount.redis.redis_py import Pool
from support.servers import Server

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


def test_a_pool_lists_its_connections(valkey: Server) -> None:
    """A pool keeps its idle connections in a queue, last in and first out, and all of them in a list."""
    pool: Any = Pool(host="127.0.0.1", port=valkey.port)  # type: ignore[no-untyped-call]  # redis-py's own gap
    assert pool.must_connect, SEE
    one, other = pool.get_connection(), pool.get_connection()
    for connection in (one, other):
        pool.release(connection)
    assert pool.pool.queue[-1] is other, SEE
    assert pool._connections == [one, other], SEE
    assert not pool.must_connect, SEE
    pool.disconnect_idle()
    assert pool.must_connect, SEE


def test_a_pool_of_sentinels_works_over_any_pool() -> None:
    """redis-py's pool behind Sentinel calls the next base class."""
    assert issubclass(redis.sentinel.SentinelConnectionPool, redis.ConnectionPool), SEE
    for name in ("get_master_address", "rotate_slaves", "reset"):
        assert callable(getattr(redis.sentinel.SentinelConnectionPool, name, None)), SEE
