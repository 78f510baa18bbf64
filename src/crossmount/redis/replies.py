"""Servers' replies as redis-py reads them, and their errors as ours, without any secret in the message."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from crossmount.errors import IndexFailedError, IndexRefusedError, IndexUnavailableError
from crossmount.redis.pipeline import FOREIGN, STUMBLES
from redis import exceptions

Command = tuple[str | bytes | int, ...]

_TELLING = 8
"""A shorter password occurs in words by chance: stars in its place would tell it."""

_PART = 12
"""So many characters of a password are no chance: servers repeat it cut short, and with line ends changed."""

_SAID_MAX = 4096
"""How much of what a server says is looked at."""

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
