"""Commands run through a link: reads, writes, and calls of Lua scripts, in one round trip in the good case."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from crossmount.errors import IndexRefusedError
from crossmount.redis.link import Link
from crossmount.redis.replies import Command, ScriptMissingError, WrongTypeError


async def run_reads(link: Link, commands: Sequence[Command]) -> list[Any]:
    """Run commands that read; return their replies, None where a key has a value of another type than ours.

    Raises:
        IndexFailedError: no answer, or one of the commands is refused for another reason.
    """
    replies = await link.run(commands) if commands else []
    for reply in replies:
        if isinstance(reply, IndexRefusedError) and not isinstance(reply, WrongTypeError):
            raise reply
    return [None if isinstance(reply, WrongTypeError) else reply for reply in replies]


async def run_writes(link: Link, commands: Sequence[Command]) -> None:
    """Run commands that write.

    Raises:
        IndexFailedError: no answer, or one of the commands is refused.
    """
    for reply in await link.run(commands) if commands else []:
        if isinstance(reply, IndexRefusedError):
            raise reply


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script; Redis calls it by its SHA-1."""

    source: str
    sha: str

    def call(self, keys: tuple[str, ...], *args: str | bytes | int) -> Command:
        """Return the command that runs it."""
        return ("EVALSHA", self.sha, len(keys), *keys, *args)


@cache
def load_script(name: str, package: str) -> Script:
    """Load the file `name`.lua in the folder `scripts` of a package."""
    source = resources.files(package).joinpath("scripts", f"{name}.lua").read_text(encoding="utf-8")
    return Script(source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


async def run_scripted(link: Link, commands: Sequence[Command], scripts: Iterable[Script]) -> list[Any]:
    """Run commands that call scripts. Where the server lacks a script, load all `scripts` and run those again.

    Returns:
        A reply for each command, an `IndexRefusedError` where one was refused.

    Raises:
        IndexFailedError: no answer, or the server refuses to load a script.
    """
    if not commands:
        return []
    replies = await link.run(commands)
    missing = [i for i, reply in enumerate(replies) if isinstance(reply, ScriptMissingError)]
    if missing:
        loads: list[Command] = [("SCRIPT", "LOAD", script.source) for script in scripts]
        again = await link.run([*loads, *(commands[i] for i in missing)])
        for reply in again[: len(loads)]:
            if isinstance(reply, IndexRefusedError):
                raise reply
        for i, reply in zip(missing, again[len(loads) :], strict=True):
            replies[i] = reply
    return replies
