"""The one module that uses private parts of redis-py: its connections and its pools.

Tried with redis-py 6.2.0 and 8.1.0. `tests/redis/test_redis_py.py` fails where a version has these parts no more:

- `Connection._parser`, which with hiredis has a `_reader` whose `gets` returns `NOT_ENOUGH_DATA` once it is empty;
- `Connection._connect`, which returns the socket, and `Connection._sock`;
- `ConnectionPool.reset`, which `_checkpid` calls first in a fork, `owns_connection`, and `pid` of both;
- `SentinelConnectionPool`, which chooses its connections' class itself and works over any pool.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from typing import Any

import redis.sentinel
from redis._parsers.hiredis import NOT_ENOUGH_DATA
from redis.exceptions import AuthenticationError, ConnectionError, ReadOnlyError, ResponseError, TimeoutError  # noqa: A004

import redis
from crossmount.redis.address import Node
from crossmount.redis.call import BREAKER_SECONDS, current_call
from crossmount.redis.threads import NoneAnsweredError, first_answer


def read_replies(connection: Any, count: int) -> list[Any]:
    """Read so many replies; return a `ResponseError` in the place of each that is one.

    A call of `read_response` for each reply takes longer than the parsing, so what hiredis has already received is
    taken from it at once.

    Raises:
        RedisError: the connection failed, or the server closes it.
    """
    replies: list[Any] = []
    while len(replies) < count:
        try:
            replies.append(connection.read_response())
        except ResponseError as error:
            replies.append(error)
        received = getattr(getattr(connection._parser, "_reader", None), "gets", None)  # noqa: SLF001 see above
        if received is not None:
            replies += islice(iter(received, NOT_ENOUGH_DATA), count - len(replies))
    for reply in replies:
        if isinstance(reply, ConnectionError):  # such as LOADING
            raise reply
        if isinstance(reply, ReadOnlyError) and isinstance(connection, redis.sentinel.SentinelManagedConnection):
            raise ConnectionError(
                "the master that the sentinels named is a replica now"
            )  # as `read_response` does
    return replies


class Pool(redis.ConnectionPool):
    """Connections to one server. A process and its forks may use a pool, each on connections of its own.

    `CallLimiter` bounds the number of connections: each call has one. So taking one and giving it back needs none
    of the locks of redis-py's own pools, which take a twentieth of the time of a small look-up.
    """

    def reset(self) -> None:
        """Forget all connections, as in a child after a fork, and close the child's ends of them."""
        for connection in getattr(self, "_all", ()):  # redis-py's constructor calls this too
            connection.disconnect()  # in a child this closes the descriptor, without a shutdown of the connection
        self._all: deque[Any] = deque()
        self._idle: deque[Any] = deque()  # last in, first out
        self._era = 0  # a connection that was taken in an earlier one is closed when it is released
        super().reset()

    def get_connection(self, *_: object, **__: object) -> Any:
        """Return an unused connection or a new one, which is open and has nothing left to read."""
        self._checkpid()
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self.connection_class(**self.connection_kwargs)
            self._all.append(connection)
        connection.era = self._era
        try:
            connection.connect()
            if _is_stale(connection):
                connection.disconnect()
                connection.connect()
        except BaseException:
            self.release(connection)
            raise
        return connection

    def release(self, connection: Any) -> None:
        """Take back a connection."""
        self._checkpid()
        if connection.era != self._era or not self.owns_connection(connection):  # a parent's, or to another master
            connection.disconnect()
        if connection.pid == self.pid:
            self._idle.append(connection)

    def disconnect(self, inuse_connections: bool = True) -> None:
        """Close all connections, or the unused ones.

        A call in another thread may open its connection again after a close of all: it is closed at its release.
        """
        self._checkpid()
        self._era += inuse_connections
        for connection in list(self._all if inuse_connections else self._idle):
            connection.disconnect()

    def retire(self) -> None:
        """Close the unused connections, and each of the others when it is released."""
        self._era += 1
        self.disconnect(inuse_connections=False)

    def note_failure(self, connection: Any) -> None:
        """Note that a server gave no answer on a connection; a pool of one server has nothing to remember."""

    @property
    def must_connect(self) -> bool:
        """Whether the next call must probably open a connection first."""
        idle = list(self._idle)
        return not idle or idle[-1]._sock is None  # noqa: SLF001 see above


def _is_stale(connection: Any) -> bool:
    """Return whether the server has closed a connection, or a reply of an earlier call is left on it."""
    try:
        return bool(connection.can_read())
    except (ConnectionError, TimeoutError, OSError):
        return True


class SentinelPool(redis.sentinel.SentinelConnectionPool, Pool):
    """Connections to the server that the sentinels name as the master, or to its replicas."""

    def note_failure(self, connection: Any) -> None:
        """Connect to other replicas for a while, or to the master; sentinels may not miss the silent one yet."""
        call = current_call()
        if not self.is_master and not (call is not None and call.cancelled):
            self.sentinel_manager.leave_alone((connection.host, connection.port))
            self.disconnect(inuse_connections=False)


class Sentinels(redis.sentinel.Sentinel):
    """The sentinels, asked together, with errors that do not show redis-py's objects."""

    def __init__(self, clients: Sequence["redis.Redis"], *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__([])  # type: ignore[no-untyped-call]  # redis-py's own gap
        self.sentinels = list(clients)  # on our pools: an answer that comes after the close leaves nothing open
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
        self.pending = getattr(socket, "pending", int)  # redis-py looks for it before each command

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
