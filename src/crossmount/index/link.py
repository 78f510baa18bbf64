"""Commands to a Redis server and their replies: one round trip a run, redis-py's errors as ours.

Two links, one protocol. `AsyncLink` awaits; `BlockingLink.run` is a coroutine function that never suspends, so
that what is written once for both can be driven without an event loop (`crossmount._blocking.run_now`).
"""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import redis
import redis.asyncio
from redis import exceptions

from crossmount.errors import IndexFailedError, IndexRefusedError, IndexUnavailableError

Command = tuple[str | bytes | int, ...]

CALL_SECONDS = 1.0
"""What one run may take in all, with its retry, before whoever pushes goes on without the index."""

_NO_ANSWER = (exceptions.ConnectionError, exceptions.TimeoutError, OSError, TimeoutError)


class ScriptMissingError(IndexRefusedError):
    """The server does not know a script (NOSCRIPT): it was restarted, or its scripts were flushed."""


class Link(Protocol):
    """A way to one index server."""

    @property
    def where(self) -> str:
        """What to call the server in a message: its address, never a password."""
        ...

    async def run(self, commands: Sequence[Command]) -> list[Any]:
        """Send all commands at once; return a reply for each, an `IndexRefusedError` where one was refused.

        Raises:
            IndexUnavailableError: no answer in time.
            IndexRefusedError: the server refused all of it: wrong password, no such database.
        """
        ...

    async def aclose(self) -> None:
        """Close the connections."""
        ...


class AsyncLink:
    """A link on redis-py's asyncio client."""

    def __init__(self, client: "redis.asyncio.Redis", where: str) -> None:
        self._client = client
        self.where = where

    async def run(self, commands: Sequence[Command]) -> list[Any]:
        """See `Link`."""
        with redis_errors(self.where):
            async with asyncio.timeout(CALL_SECONDS), self._client.pipeline(transaction=False) as pipeline:
                for command in commands:
                    pipeline.execute_command(*command)
                return _replies(await pipeline.execute(raise_on_error=False), self.where)

    async def aclose(self) -> None:
        """See `Link`."""
        with redis_errors(self.where):
            await self._client.aclose()


class BlockingLink:
    """A link on redis-py's blocking client; safe to share by threads, and by a process and its forks."""

    def __init__(self, client: "redis.Redis", where: str) -> None:
        self._client = client
        self.where = where

    async def run(self, commands: Sequence[Command]) -> list[Any]:
        """See `Link`; it never suspends."""
        with redis_errors(self.where), self._client.pipeline(transaction=False) as pipeline:
            for command in commands:
                pipeline.execute_command(*command)  # type: ignore[no-untyped-call]  # redis-py's own gap
            return _replies(pipeline.execute(raise_on_error=False), self.where)

    async def aclose(self) -> None:
        """See `Link`; it never suspends."""
        with redis_errors(self.where):
            self._client.close()


@contextmanager
def redis_errors(where: str) -> Iterator[None]:
    """Turn redis-py's exceptions, and what lies below it, into ours."""
    try:
        yield
    except (exceptions.RedisError, OSError, TimeoutError) as error:
        raise _ours(error, where) from error


def _replies(replies: list[Any], where: str) -> list[Any]:
    return [_ours(reply, where) if isinstance(reply, Exception) else reply for reply in replies]


def _ours(error: Exception, where: str) -> IndexFailedError:
    if isinstance(error, exceptions.NoScriptError):
        return ScriptMissingError(f"index at {where}: it does not know the script")
    # An authentication error is a ConnectionError to redis-py: it can be made before any command is sent.
    if isinstance(
        error, exceptions.AuthenticationError | exceptions.AuthorizationError | exceptions.BusyLoadingError
    ):
        return IndexRefusedError(f"index at {where}: {_words(error)}")
    if isinstance(error, _NO_ANSWER):
        return IndexUnavailableError(f"index at {where} does not answer: {_words(error)}")
    return IndexRefusedError(f"index at {where} refused: {_words(error)}")


def _words(error: Exception) -> str:
    text = " ".join("".join(c if c.isprintable() else " " for c in str(error)).split())
    return text[:200].rstrip(".") or type(error).__name__
