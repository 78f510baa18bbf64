"""One exchange with a server: commands out in one write, their replies in, on a connection of redis-py's pools.

This is what redis-py's pipeline does, without what it does for each command besides: on a server nearby that took
longer than the server's own work. Connecting, logging in, time-outs and retries stay redis-py's.
"""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import redis.asyncio
from redis.exceptions import InvalidResponse, ResponseError

import redis
from redis import exceptions

Arguments = Sequence[str | bytes | int]
Asked = tuple[Any, Sequence[Arguments]]
"""A server's pool of connections, and what to ask there."""

FOREIGN = (
    exceptions.RedisError,
    exceptions.RedisClusterException,  # these two are no RedisError
    exceptions.ChildDeadlockedError,
    OSError,
    UnicodeError,  # a host name that cannot be asked for
)
"""All that redis-py, and what lies below it, raises on purpose."""

STUMBLES = (ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError, TypeError, ValueError)
"""What redis-py and hiredis raise by chance, where a server or a sentinel answers what they did not expect."""


def packed(commands: Sequence[Arguments]) -> bytes:
    """Return commands as the protocol writes them: an array of strings each, with their lengths in bytes."""
    parts: list[bytes] = []
    for command in commands:
        parts.append(b"*%d\r\n" % len(command))
        for argument in command:
            data = argument if isinstance(argument, bytes) else str(argument).encode()
            parts.append(b"$%d\r\n%b\r\n" % (len(data), data))
    return b"".join(parts)


@contextmanager
def _understood() -> Iterator[None]:
    """Let an answer that nobody can read be one of redis-py's errors, like all that a server may do to us."""
    try:
        yield
    except FOREIGN:
        raise
    except STUMBLES as error:
        raise InvalidResponse("it answers with what is no reply of Redis's") from error


def exchange(pool: "redis.ConnectionPool", commands: Sequence[Arguments]) -> list[Any]:
    """Send commands and return a reply for each, a `ResponseError` where one was refused."""
    data, count = packed(commands), len(commands)
    with _understood():
        return _exchange(pool, data, count)


def _exchange(pool: "redis.ConnectionPool", data: bytes, count: int) -> list[Any]:
    connection: Any = pool.get_connection()  # partly untyped

    def ask() -> list[Any]:
        connection.connect()  # after a failure, to where the sentinels say that the master is by now
        connection.send_packed_command([data])
        return _read(connection, count)

    try:
        replies: list[Any] = connection.retry.call_with_retry(ask, lambda _: connection.disconnect())
    except BaseException:
        connection.disconnect()  # a reply may be on its way still, and is not the next call's
        raise
    finally:
        pool.release(connection)
    return replies


def exchange_each(asked: Sequence[Asked]) -> list[list[Any] | Exception]:
    """Ask several servers at once: send to each, then read from each. Nothing is sent twice.

    Returns:
        For each server its replies, or what came instead of them.
    """
    outcomes: list[list[Any] | Exception | None] = [None] * len(asked)
    connections: dict[int, Any] = {}
    try:
        for number, (pool, commands) in enumerate(asked):
            data = packed(commands)
            try:
                with _understood():
                    connections[number] = pool.get_connection()
                    connections[number].send_packed_command([data])
            except FOREIGN as error:
                outcomes[number] = error
        for number, connection in connections.items():
            if outcomes[number] is None:
                try:
                    with _understood():
                        outcomes[number] = _read(connection, len(asked[number][1]))
                except FOREIGN as error:
                    outcomes[number] = error
    finally:
        for number, connection in connections.items():
            if not isinstance(outcomes[number], list):
                connection.disconnect()
            asked[number][0].release(connection)
    return [outcome for outcome in outcomes if outcome is not None]  # all are there by now


def _read(connection: Any, count: int) -> list[Any]:
    replies: list[Any] = []
    for _ in range(count):
        try:
            replies.append(connection.read_response())
        except ResponseError as error:
            replies.append(error)
    return replies


async def exchange_async(pool: "redis.asyncio.ConnectionPool", commands: Sequence[Arguments]) -> list[Any]:
    """Do as `exchange` does, in an event loop."""
    data, count = packed(commands), len(commands)
    with _understood():
        return await _exchange_async(pool, data, count)


async def _exchange_async(pool: "redis.asyncio.ConnectionPool", data: bytes, count: int) -> list[Any]:
    connection: Any = await pool.get_connection()  # type: ignore[no-untyped-call]  # redis-py's own gap

    async def ask() -> list[Any]:
        await connection.connect()  # after a failure, to where the sentinels say that the master is by now
        await connection.send_packed_command([data])
        replies: list[Any] = []
        for _ in range(count):
            try:
                replies.append(await connection.read_response())
            except ResponseError as error:
                replies.append(error)
        return replies

    try:
        replies: list[Any] = await connection.retry.call_with_retry(
            ask, lambda _: connection.disconnect(nowait=True)
        )
    except BaseException:
        await connection.disconnect(nowait=True)
        raise
    finally:
        await pool.release(connection)
    return replies


async def exchange_each_async(asked: Sequence[Asked]) -> list[list[Any] | Exception]:
    """Do as `exchange_each` does, in an event loop."""
    return await asyncio.gather(*(_outcome(pool, commands) for pool, commands in asked))


async def _outcome(pool: "redis.asyncio.ConnectionPool", commands: Sequence[Arguments]) -> list[Any] | Exception:
    try:
        return await exchange_async(pool, commands)
    except FOREIGN as error:
        return error
