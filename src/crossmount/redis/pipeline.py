"""Sends commands in one write and reads their replies, on connections of redis-py's pools.

This is what redis-py's pipeline does, without its extra work for each command, which took longer than the server
when that was nearby. Connecting, logging in, time-outs and retries are redis-py's.
"""

import contextvars
import importlib
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, cast

from redis.exceptions import InvalidResponse
from redis.exceptions import TimeoutError as RedisTimeoutError

import redis
from crossmount.redis.redis_py import Pool, read_replies
from redis import exceptions

TIMEOUT_SECONDS = 0.5
"""Time-out to connect, and between two bytes of a reply; with one retry a silent server costs twice that."""

Arguments = tuple[str | bytes | int, ...]
PoolRequest = tuple[Pool, Sequence[Arguments]]
"""Connections to a server, and the commands for it."""

FOREIGN = (
    exceptions.RedisError,
    exceptions.RedisClusterException,  # these two are no RedisError
    exceptions.ChildDeadlockedError,
    OSError,
    UnicodeError,  # a host name that cannot be encoded
)
"""All that redis-py, and the modules below it, raise on purpose."""

UNEXPECTED = (ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError, TypeError, ValueError)
"""Errors that redis-py and hiredis raise by chance over a reply that they did not expect."""


def pack_slowly(command: Arguments) -> bytes:
    """Return a command as the protocol writes it: an array of strings, each with its length in bytes."""
    parts = [b"*%d\r\n" % len(command)]
    for argument in command:
        data = argument if isinstance(argument, bytes) else str(argument).encode()
        parts.append(b"$%d\r\n%b\r\n" % (len(data), data))
    return b"".join(parts)


_pack: Callable[[Arguments], bytes] = pack_slowly
with suppress(ImportError):  # the extra `fast` is not installed; hiredis takes a third of the time
    _pack = cast("Callable[[Arguments], bytes]", importlib.import_module("hiredis").pack_command)


def packed(commands: Iterable[Arguments]) -> bytes:
    """Return commands as the protocol writes them."""
    return b"".join(map(_pack, commands))


def exchange(pool: redis.ConnectionPool, commands: Sequence[Arguments]) -> list[Any]:
    """Send commands to one server and return a reply for each, a `ResponseError` where one was refused."""
    data, count = packed(commands), len(commands)
    try:
        return _send_and_read(pool, data, count)
    except FOREIGN:
        raise
    except UNEXPECTED as error:
        raise _unreadable() from error


def _send_and_read(pool: redis.ConnectionPool, data: bytes, count: int) -> list[Any]:
    connection: Any = pool.get_connection()  # partly untyped

    def attempt() -> list[Any]:
        connection.connect()  # after a failure, to the server that the sentinels name as the master by now
        connection.send_packed_command([data])
        return read_replies(connection, count)

    def fail(_: Exception) -> None:
        if isinstance(pool, Pool):
            pool.note_failure(connection)
        connection.disconnect()

    try:
        replies: list[Any] = connection.retry.call_with_retry(attempt, fail)
    except BaseException:
        connection.disconnect()  # its reply may still arrive, and the next call must not get it
        raise
    finally:
        pool.release(connection)
    return replies


def exchange_each(requests: Sequence[PoolRequest]) -> list[list[Any] | Exception]:
    """Send commands to several servers at once, then read from each. Nothing is sent twice.

    The servers share one time-out: all must begin to answer within `TIMEOUT_SECONDS`, so that silent servers cost
    no more than one. Reading one after another loses nothing: the replies of the others wait in their
    sockets, and are read even after the time-out. Connections are opened in a thread each, since that takes
    several round trips (TCP, TLS, login), each of which may get no answer.

    Returns:
        For each server its replies, or the error instead.
    """
    exchanges = [_Exchange(pool, packed(commands), len(commands)) for pool, commands in requests]
    try:
        _run_concurrently([each.connect for each in exchanges if each.pool.must_connect])
        for each in exchanges:
            each.send()
        until = time.monotonic() + TIMEOUT_SECONDS
        for each in exchanges:
            each.read(until)
    finally:
        for each in exchanges:
            each.end()
    return [each.outcome for each in exchanges]


class _Exchange:
    """One server's part of an exchange; after an error the next steps do nothing."""

    def __init__(self, pool: Pool, data: bytes, count: int) -> None:
        self.pool: Any = pool  # partly untyped
        self.outcome: list[Any] | Exception = []
        self._data = data
        self._count = count
        self._connection: Any = None
        self._done = False

    def connect(self) -> None:
        self._step(self._connect)

    def send(self) -> None:
        self._step(self._send)

    def read(self, until: float) -> None:
        self._step(lambda: self._read(until))

    def end(self) -> None:
        """Release the connection; close it first unless all replies were read."""
        if self._connection is not None:
            if not self._done:
                self._connection.disconnect()
            self.pool.release(self._connection)

    def _connect(self) -> None:
        self._connection = self.pool.get_connection()

    def _send(self) -> None:
        if self._connection is None:
            self._connect()
        self._connection.send_packed_command([self._data])

    def _read(self, until: float) -> None:
        if self._count and not self._connection.can_read(timeout=max(0.0, until - time.monotonic())):
            raise RedisTimeoutError("Timeout reading from socket")
        self.outcome = read_replies(self._connection, self._count)
        self._done = True

    def _step(self, step: Callable[[], None]) -> None:
        if not isinstance(self.outcome, Exception):
            try:
                step()
            except FOREIGN as error:
                self.outcome = error
            except UNEXPECTED as error:
                self.outcome = _unreadable()
                self.outcome.__cause__ = error


def _run_concurrently(functions: Sequence[Callable[[], None]]) -> None:
    """Run functions in a thread each, in the context of this call; they must not raise."""
    if len(functions) == 1:
        functions[0]()
        return
    threads = [
        threading.Thread(target=contextvars.copy_context().run, args=(function,), daemon=True)
        for function in functions
    ]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    except BaseException:
        for thread in threads:  # they end by the call's deadline; their connections are released after that
            thread.join()
        raise


def _unreadable() -> InvalidResponse:
    """Return redis-py's error for a reply that it failed over by chance."""
    return InvalidResponse("it answers with something else than a reply of Redis")
