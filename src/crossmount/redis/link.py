"""Commands to a Redis server and their replies: one round trip a run, redis-py's errors as ours.

Two links, one protocol. `AsyncLink` awaits; `BlockingLink.run` is a coroutine function that never suspends, so
that what is written once for both can be driven without an event loop (`crossmount._blocking.run_now`).
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Generic, Protocol, Self, TypeVar

import redis.asyncio

import redis
from crossmount.errors import IndexFailedError, IndexRefusedError, IndexUnavailableError
from crossmount.redis.deadline import hurried
from crossmount.redis.login import Secrets
from crossmount.redis.pipeline import FOREIGN, STUMBLES, exchange, exchange_async
from redis import exceptions

Command = tuple[str | bytes | int, ...]

C = TypeVar("C", bound="redis.Redis | redis.asyncio.Redis")

_TELLING = 8
"""A shorter password occurs in words by chance: stars in its place would tell it."""

_PART = 12
"""So many characters of a password are no chance: servers repeat it cut short, and with line ends changed."""

_SAID_MAX = 4096
"""How much of what a server says is looked at."""

CALL_SECONDS = 1.5
"""What one run may take in all, with its retry, before whoever pushes goes on without the index."""

_NO_ANSWER = (exceptions.ConnectionError, exceptions.TimeoutError, OSError)
_PASSING = (
    exceptions.BusyLoadingError,
    exceptions.ClusterDownError,  # a MasterDownError is one
    exceptions.TryAgainError,
)
_READ_BY_US = frozenset({"HGETALL", "HEXISTS", "SRANDMEMBER", "SCRIPT", "EVALSHA"})
"""Replies that are left as they come: redis-py's reading takes long, and stumbles over a wrong shape."""


class ScriptMissingError(IndexRefusedError):
    """The server does not know a script (NOSCRIPT): it was restarted, or its scripts were flushed."""


class WrongTypeError(IndexRefusedError):
    """A key of ours holds a value of another type (WRONGTYPE): somebody else wrote it."""


class StartingError(IndexRefusedError):
    """The server says that it will serve in a moment: it is loading (LOADING), or its Cluster is changing."""


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

    async def parts(self) -> "Sequence[Link]":
        """Return a link to each server that holds a part of the keys; on one server alone that is this link.

        Raises:
            IndexFailedError: the servers of a Cluster are not known, and it does not tell them.
        """
        ...

    async def aclose(self) -> None:
        """Close the connections."""
        ...


class Reader:
    """What is made of servers' replies and errors: as redis-py reads them, and our errors without any secret.

    Args:
        where: what to call the server in a message.
        callbacks: redis-py's readers of replies, by command.
        secrets: passwords, which a server may repeat in its answer and no message holds.
    """

    def __init__(self, where: str, callbacks: Mapping[Any, Callable[..., Any]], secrets: Iterable[str]) -> None:
        self.where = where
        self._secrets = secrets
        self._readers = {name: read for name, read in callbacks.items() if name not in _READ_BY_US}

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn what redis-py, and what lies below it, raises inside into our errors."""
        try:
            yield
        except FOREIGN as error:
            # a traceback would show it
            cause = None if _chain_repeats(error, self._secrets) else error
            raise _ours(error, self.where, self._secrets) from cause

    def read(self, commands: Sequence[Command], replies: Sequence[Any]) -> list[Any]:
        """Return replies as a `Link` does."""
        return [self._reply(*pair) for pair in zip(commands, replies, strict=True)]

    def _reply(self, command: Command, reply: Any) -> Any:
        if isinstance(reply, Exception):
            return _ours(reply, self.where, self._secrets)
        read = self._readers.get(str(command[0]))
        if read is None:
            return reply
        try:
            return read(reply)
        except STUMBLES:
            return IndexRefusedError(f"index at {self.where} answers {command[0]!s} with something else")


class OneLoop:
    """Holds what belongs to one event loop to the one in which it is first used."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None

    def check(self, where: str) -> None:
        """See that this is that loop.

        Raises:
            IndexUnavailableError: it is another.
        """
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise IndexUnavailableError(f"index at {where}: opened in another event loop: open one in each")


class ClientLink(Generic[C]):
    """What the links on redis-py's two clients share: a server, and how its replies are read.

    Args:
        client: any client of redis-py; the link closes it.
        where: what to call the server in a message.
        secrets: words that no message may hold.
        also: other clients that are closed with it.
    """

    def __init__(
        self, client: C, where: str, secrets: Iterable[str] | None = None, also: Sequence[C] = ()
    ) -> None:
        self.where = where
        self._client = client
        self._reader = Reader(
            where, client.response_callbacks, _secrets_of(client) if secrets is None else secrets
        )
        self._clients = client, *also

    async def parts(self) -> Sequence[Self]:
        """See `Link`."""
        return [self]


class AsyncLink(ClientLink["redis.asyncio.Redis"]):
    """A link on redis-py's asyncio client; for one event loop, the one in which it is first used."""

    def __init__(
        self,
        client: "redis.asyncio.Redis",
        where: str,
        secrets: Iterable[str] | None = None,
        also: Sequence["redis.asyncio.Redis"] = (),
    ) -> None:
        super().__init__(client, where, secrets, also)
        self._loop = OneLoop()

    async def run(self, commands: Sequence[Command]) -> list[Any]:
        """See `Link`."""
        self._loop.check(self.where)
        with cancellation_kept(), self._reader.errors():
            async with asyncio.timeout(CALL_SECONDS):
                return self._reader.read(commands, await exchange_async(self._client.connection_pool, commands))

    async def aclose(self) -> None:
        """See `Link`."""
        with self._reader.errors():
            for client in self._clients:
                await client.aclose()


class BlockingLink(ClientLink["redis.Redis"]):
    """A link on redis-py's blocking client; safe to share by threads, and by a process and its forks."""

    async def run(self, commands: Sequence[Command]) -> list[Any]:
        """See `Link`; it never suspends."""
        with self._reader.errors(), hurried(CALL_SECONDS):
            return self._reader.read(commands, exchange(self._client.connection_pool, commands))

    async def aclose(self) -> None:
        """See `Link`; it never suspends."""
        with self._reader.errors():
            for client in self._clients:
                client.close()


def _secrets_of(client: "redis.Redis | redis.asyncio.Redis") -> Secrets:
    """Return the password that a client was made with."""
    return Secrets(str(client.connection_pool.connection_kwargs.get("password") or ""))


@contextmanager
def cancellation_kept() -> Iterator[None]:
    """Be cancelled where that was asked for.

    Python 3.11's `asyncio.wait_for`, on which redis-py stands, forgets a cancellation that comes in the moment in
    which what it waits for is done. The task still counts it.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task is not None else 0
    try:
        yield
    finally:
        if task is not None and task.cancelling() > before:
            raise asyncio.CancelledError


def _ours(error: Exception, where: str, secrets: Iterable[str]) -> IndexFailedError:
    words = _mistaken(error, _words(error, secrets), where)
    if isinstance(error, exceptions.NoScriptError):
        return ScriptMissingError(f"index at {where} does not know the script")
    if isinstance(error, exceptions.ResponseError) and words.startswith("WRONGTYPE"):
        return WrongTypeError(f"index at {where} holds something else under a key of ours: {words}")
    if isinstance(error, _PASSING):
        return StartingError(f"index at {where} refused: {words}")
    # An authentication error is a ConnectionError to redis-py: it can be made before any command is sent.
    if isinstance(error, exceptions.AuthenticationError | exceptions.AuthorizationError):
        return IndexRefusedError(f"index at {where} refused: {words}")
    if isinstance(error, _NO_ANSWER):
        return IndexUnavailableError(f"index at {where} does not answer: {words}")
    return IndexRefusedError(f"index at {where} refused: {words}")


def _mistaken(error: Exception, words: str, where: str) -> str:
    """Return the words, and which URL is meant if the server is of another kind than the URL says."""
    if isinstance(error, exceptions.MovedError) and "+cluster" not in where:
        return f"a part of a Cluster, which holds the key elsewhere ({words}): give a redis+cluster:// URL"
    if not words.startswith("unknown command"):
        return words
    if "+sentinel" in where and "SENTINEL" in words:
        return f"it is no sentinel ({words}): give a redis:// URL"
    return words if "+" in where else f"{words}: if it is a sentinel, give a redis+sentinel:// URL"


def _words(error: Exception, secrets: Iterable[str]) -> str:
    said = str(error)[:_SAID_MAX]
    for secret in secrets:
        if len(secret) >= _TELLING:
            said = said.replace(secret, "***")
        if _repeats(said, secret):
            said = "its words repeat the password"
    text = " ".join("".join(c if c.isprintable() else " " for c in said).split())
    return text[:200].rstrip(".") or type(error).__name__


def _repeats(said: str, secret: str) -> bool:
    """Tell whether words repeat a password, or a part of it."""
    if secret in said:
        return bool(secret)
    parts = {said[start : start + _PART] for start in range(len(said) - _PART + 1)}
    return any(secret[start : start + _PART] in parts for start in range(len(secret) - _PART + 1))


def _chain_repeats(error: BaseException, secrets: Iterable[str]) -> bool:
    """Tell whether an error, or one that it comes from, repeats a password."""
    link: BaseException | None = error
    while link is not None:
        said = str(link)[:_SAID_MAX]
        if any(_repeats(said, secret) for secret in secrets):
            return True
        link = link.__cause__ or link.__context__
    return False
