"""The one module that uses private parts of redis-py: its connections and its pools.

Tried with redis-py 6.2.0 and 8.1.0. `tests/redis/test_redis_py.py` fails where a version has these parts no more:

- `Connection._connect`, which returns the socket, and `Connection._sock`;
- `ConnectionPool.reset`, which a fork's first use calls;
- `BlockingConnectionPool.pool`, a queue whose `queue` lists the unused connections, and `_connections`;
- `SentinelConnectionPool`, which chooses its connections' class itself and works over any pool.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import redis.sentinel
from redis.exceptions import AuthenticationError, ConnectionError, ResponseError, TimeoutError  # noqa: A004

import redis
from crossmount.redis.address import Node
from crossmount.redis.call import BREAKER_SECONDS, current_call
from crossmount.redis.race import NoneAnsweredError, first_answer


class Pool(redis.BlockingConnectionPool):
    """Connections to one server. A process and its forks may use a pool, each on connections of its own."""

    def reset(self) -> None:
        """Forget all connections, as in a child after a fork, and close the child's ends of them."""
        for connection in getattr(self, "_connections", ()):  # redis-py's constructor calls this too
            connection.disconnect()  # in a child this closes the descriptor, without a shutdown of the connection
        super().reset()  # type: ignore[no-untyped-call]  # redis-py's own gap

    def note_failure(self, connection: Any) -> None:
        """Note that a server gave no answer on a connection; a pool of one server has nothing to remember."""

    def disconnect_idle(self) -> None:
        """Close the unused connections. redis-py has a public way from version 7 on."""
        for connection in list(self.pool.queue):
            if connection is not None:
                connection.disconnect()

    @property
    def must_connect(self) -> bool:
        """Whether the next call must probably open a connection first."""
        idle = list(self.pool.queue)
        return not idle or idle[-1] is None or idle[-1]._sock is None  # noqa: SLF001 see above; the queue is last in, first out


class SentinelPool(redis.sentinel.SentinelConnectionPool, Pool):
    """Connections to the server that the sentinels name as the master, or to its replicas."""

    def note_failure(self, connection: Any) -> None:
        """Connect to other replicas for a while, or to the master; sentinels may not miss the silent one yet."""
        call = current_call()
        if not self.is_master and not (call is not None and call.cancelled):
            self.sentinel_manager.leave_alone((connection.host, connection.port))
            self.disconnect_idle()

    def disconnect(self, inuse_connections: bool = True) -> None:
        """Close all connections, or the unused ones."""
        if inuse_connections:
            super().disconnect()
        else:
            self.disconnect_idle()


class Sentinels(redis.sentinel.Sentinel):
    """The sentinels, asked together, with errors that do not show redis-py's objects."""

    def __init__(self, *args: Any, clock: Callable[[], float] = time.monotonic, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]  # redis-py's own gap
        self._clock = clock
        self._left_alone: dict[Node, float] = {}  # silent replicas, and until when they get no connections

    def leave_alone(self, replica: Node) -> None:
        """Name a replica to nobody for some seconds."""
        self._left_alone[replica] = self._clock() + BREAKER_SECONDS

    def discover_master(self, service_name: str) -> Any:
        """Return the master's address, by the first sentinel that knows it.

        Raises:
            AuthenticationError: the sentinels refuse the login.
            ConnectionError: no sentinel answers, or none knows the service.
        """

        def ask(sentinel: Any) -> Any:
            state = sentinel.sentinel_masters().get(service_name)
            if not state or not self.check_master_state(state, service_name):  # type: ignore[no-untyped-call]
                raise ConnectionError("it knows no master of that service")
            return state["ip"], state["port"]

        try:
            return self._first_answer(ask)
        except NoneAnsweredError as error:
            for each in error.errors.values():
                if isinstance(each, AuthenticationError):
                    raise AuthenticationError(
                        "the sentinels do not accept the login: give sentinel_password_file in the URL"
                    ) from None
                if isinstance(each, ResponseError):
                    raise each from None
            raise ConnectionError("no sentinel that answers knows a master of that service") from None

    def discover_slaves(self, service_name: str) -> Any:
        """Return the addresses of the replicas, by the first sentinel that knows some; not of silent ones."""

        def ask(sentinel: Any) -> Any:
            replicas = self.filter_slaves(sentinel.sentinel_slaves(service_name))  # type: ignore[no-untyped-call]
            if not replicas:
                raise ConnectionError("it knows no replica of that service")
            return replicas

        try:
            replicas = self._first_answer(ask)
        except NoneAnsweredError:
            return []
        now = self._clock()
        return [replica for replica in replicas if self._left_alone.get(replica, now) <= now]

    def _first_answer(self, ask: Callable[[Any], Any]) -> Any:
        """Ask the sentinels; the one that answered is asked first the next time."""
        sentinels = list(self.sentinels)
        winner, answer = first_answer([partial(ask, sentinel) for sentinel in sentinels])
        if winner:
            self.sentinels = [sentinels[winner], *sentinels[:winner], *sentinels[winner + 1 :]]
        return answer


def bound_by_call(pool: redis.ConnectionPool) -> None:
    """Make the connections of `pool` respect the deadline of the current call.

    A socket's own time-out begins anew with each byte, so a server that sends single bytes could delay a call
    without end. Opening a connection is checked too, since there may be several servers to try.
    """
    kind: Any = pool.connection_class

    class Bound(kind):  # type: ignore[misc]
        """A connection over a socket that checks the deadline."""

        def _connect(self) -> "_Socket":
            _check()
            return _Socket(super()._connect())

    if issubclass(kind, redis.UnixDomainSocketConnection):
        Bound.host = Bound.port = None  # redis-py 8 reads them for its message when a connection fails
    pool.connection_class = Bound


def passing_silent_replicas(pool: SentinelPool) -> None:
    """Make a connection of `pool` try the next replica where one is silent, and then the master."""
    kind: Any = pool.connection_class

    class Passing(kind):  # type: ignore[misc]
        """A connection to a replica that answers."""

        def connect_to(self, address: Node) -> None:
            try:
                super().connect_to(address)
            except (ConnectionError, TimeoutError) as error:
                if isinstance(error, AuthenticationError):
                    raise
                pool.sentinel_manager.leave_alone(address)
                raise ConnectionError(*error.args) from error

    pool.connection_class = Passing


class _Socket:
    """A socket that checks the deadline before each read."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)

    def recv(self, *args: Any) -> Any:
        """Read, if there is time left."""
        _check()
        return self._socket.recv(*args)

    def recv_into(self, *args: Any) -> Any:
        """Read, if there is time left."""
        _check()
        return self._socket.recv_into(*args)


def _check() -> None:
    call = current_call()
    if call is not None:
        call.check()
