"""Servers' replies as redis-py reads them, and their errors as ours, without any secret in the message."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn

from crossmount.errors import IndexFailedError, IndexRefusedError, IndexUnavailableError
from crossmount.redis.pipeline import FOREIGN, UNEXPECTED
from redis import exceptions

Command = tuple[str | bytes | int, ...]

_SECRET_MIN = 8
"""A shorter password occurs in a message by chance, and stars in its place would show where."""

_PART_LENGTH = 12
"""A message that repeats so many characters of a password is withheld: servers repeat it cut short or changed."""

_MESSAGE_MAX = 4096
"""How many characters of an error are examined."""

_NO_ANSWER = (exceptions.ConnectionError, exceptions.TimeoutError, OSError)
_TEMPORARY = (
    exceptions.BusyLoadingError,
    exceptions.ClusterDownError,  # a MasterDownError is one
    exceptions.TryAgainError,
)
_RAW = frozenset({"HGETALL", "HEXISTS", "SRANDMEMBER", "SCRIPT", "EVALSHA", "EVAL"})
"""Commands whose replies are returned unread: redis-py's reading is slow, and fails on a wrong shape."""


class ScriptMissingError(IndexRefusedError):
    """The server does not have a script (NOSCRIPT): it was restarted, or its scripts were flushed."""


class WrongTypeError(IndexRefusedError):
    """A key of ours has a value of another type (WRONGTYPE): another program wrote it."""


class CommandRefusedError(IndexRefusedError):
    """The server does not know a command, or the user may not run it with any key (NOPERM)."""


class KeyRefusedError(IndexRefusedError):
    """The user may not use a key of the command in this way (NOPERM)."""


class StartingError(IndexRefusedError):
    """The server will answer in a moment: it is loading its data (LOADING), or its Cluster is changing."""


class ReplyReader:
    """Turns replies into values as redis-py does, and errors into ours.

    Args:
        where: the server's address for messages.
        callbacks: redis-py's readers of replies, by command.
        secrets: passwords. A server may repeat one in its reply; our messages never do.
    """

    def __init__(self, where: str, callbacks: Mapping[Any, Callable[..., Any]], secrets: Iterable[str]) -> None:
        self.where = where
        self._secrets = secrets
        self._readers = {name: read for name, read in callbacks.items() if name not in _RAW}

    def errors(self) -> "_Translation":
        """Return a context that turns errors of redis-py, and of the modules below it, into ours."""
        return _Translation(self)

    def raise_ours(self, error: Exception) -> NoReturn:
        """Raise our error for one of redis-py."""
        # a traceback would show the cause, and with it the password
        cause = None if _chain_repeats(error, self._secrets) else error
        raise _translate(error, self.where, self._secrets) from cause

    def read(self, commands: Sequence[Command], replies: Sequence[Any]) -> list[Any]:
        """Return a value for each reply, an `IndexRefusedError` where the command was refused."""
        is_of_another_kind = all(map(_is_unknown, replies)) and not all(map(_is_of_scripts, replies))
        readers = self._readers
        return [
            reply  # most are taken as they are; this runs for every reply, so it is worth a case
            if command[0] not in readers and not isinstance(reply, Exception)
            else self._reply(command, reply, is_of_another_kind)
            for command, reply in zip(commands, replies, strict=True)
        ]

    def _reply(self, command: Command, reply: Any, is_of_another_kind: bool) -> Any:
        if isinstance(reply, Exception):
            return _translate(reply, self.where, self._secrets, is_of_another_kind=is_of_another_kind)
        read = self._readers.get(str(command[0]))
        if read is None:
            return reply
        try:
            return read(reply)
        except UNEXPECTED:
            return IndexRefusedError(f"index at {self.where} answers {command[0]!s} with something else")


class _Translation:
    """The context of `ReplyReader.errors`. A generator would take longer, and every call has one."""

    __slots__ = ("_reader",)

    def __init__(self, reader: ReplyReader) -> None:
        self._reader = reader

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, FOREIGN):
            self._reader.raise_ours(error)


def _translate(
    error: Exception, where: str, secrets: Iterable[str], *, is_of_another_kind: bool = True
) -> IndexFailedError:
    """Return our error for one of redis-py; the server may be a sentinel if it knew no command of its batch."""
    if isinstance(error, exceptions.NoScriptError):
        return ScriptMissingError(f"index at {where} does not know the script")
    words = _with_hint(error, _message(error, secrets), where, is_of_another_kind=is_of_another_kind)
    if isinstance(error, exceptions.ResponseError) and words.startswith("WRONGTYPE"):
        return WrongTypeError(f"index at {where} holds something else under a key of ours: {words}")
    # redis-py's authentication errors are ConnectionErrors
    is_login = isinstance(error, exceptions.AuthenticationError | exceptions.AuthorizationError)
    if isinstance(error, _NO_ANSWER) and not is_login and not isinstance(error, _TEMPORARY):
        return IndexUnavailableError(f"index at {where} does not answer: {words}")
    kind = IndexRefusedError
    if isinstance(error, _TEMPORARY) or _is_moving(error, where):
        kind = StartingError
    elif _is_unknown(error) or (isinstance(error, exceptions.NoPermissionError) and "to run the" in words):
        kind = CommandRefusedError
    elif isinstance(error, exceptions.NoPermissionError) and "key" in words:
        kind = KeyRefusedError
    return kind(f"index at {where} refused: {words}")


def _is_moving(error: Exception, where: str) -> bool:
    """Return whether a Cluster redirected a command again and again (ASK, or MOVED, which is a subclass)."""
    return isinstance(error, exceptions.AskError) and "+cluster" in where


def _is_unknown(reply: Any) -> bool:
    return isinstance(reply, exceptions.ResponseError) and str(reply).startswith("unknown command")


def _is_of_scripts(reply: Any) -> bool:
    return isinstance(reply, Exception) and _SCRIPTING.search(str(reply)) is not None


_SCRIPTING = re.compile(r"""(?:unknown command|run the) ['"`]?(?:evalsha|eval|script)\b""", re.IGNORECASE)


def _with_hint(error: Exception, words: str, where: str, *, is_of_another_kind: bool) -> str:
    """Return the words, and what to do if scripts are refused, or the server is of another kind than we think."""
    if _is_moving(error, where) or isinstance(error, exceptions.MovedError):
        return (
            f"its Cluster is moving the slot of the key ({words})"
            if "+cluster" in where
            else f"a part of a Cluster, which holds the key elsewhere ({words}): give a redis+cluster:// URL"
        )
    if isinstance(error, exceptions.NoPermissionError) and _SCRIPTING.search(words):
        return f"scripts are not allowed there ({words}): allow the user +eval and +evalsha"
    if not words.startswith("unknown command"):
        return words
    if "+sentinel" in where and "SENTINEL" in words:
        return f"it is no sentinel ({words}): give a redis:// URL"
    if _SCRIPTING.search(words) and not is_of_another_kind:
        known = words.partition(", with args")[0]
        return f"scripts are not known there ({known}): give a server that runs Lua scripts"
    return (
        words
        if "+" in where or not is_of_another_kind
        else f"{words}: if it is a sentinel, give a redis+sentinel:// URL"
    )


def _message(error: Exception, secrets: Iterable[str]) -> str:
    text = str(error)[:_MESSAGE_MAX]
    for secret in secrets:
        if len(secret) >= _SECRET_MIN:
            text = text.replace(secret, "***")
        if _repeats(text, secret):
            text = "its words repeat the password"
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    if (connecting := _CONNECTING.match(text)) is not None:
        text = text[connecting.end() :][:1].lower() + text[connecting.end() + 1 :]
    return _OWN_WORDS.get(text, text[:200].rstrip(".")) or type(error).__name__


_CONNECTING = re.compile(r"^Error -?\d+ connecting to \S+\. ")
"""What redis-py says before the reason; our messages have the address already."""

_OWN_WORDS = {
    "Timeout reading from socket": "no reply in time",
    "Timeout connecting to server": "no connection in time",
}


def _repeats(text: str, secret: str) -> bool:
    """Return whether a text repeats a password, or a part of it."""
    if secret in text:
        return bool(secret)
    parts = {text[start : start + _PART_LENGTH] for start in range(len(text) - _PART_LENGTH + 1)}
    return any(secret[start : start + _PART_LENGTH] in parts for start in range(len(secret) - _PART_LENGTH + 1))


def _chain_repeats(error: BaseException, secrets: Iterable[str]) -> bool:
    """Return whether an error, or one of its causes, repeats a password."""
    link: BaseException | None = error
    while link is not None:
        text = str(link)[:_MESSAGE_MAX]
        if any(_repeats(text, secret) for secret in secrets):
            return True
        link = link.__cause__ or link.__context__
    return False
