"""The Lua scripts, one file each, the commands that call them, and how those are run."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from crossmount.errors import IndexRefusedError
from crossmount.redis.link import Link
from crossmount.redis.replies import Command, ScriptMissingError


@dataclass(frozen=True, slots=True)
class Script:
    """A script of this package, called by its SHA-1 as Redis names it."""

    source: str
    sha: str

    def call(self, keys: tuple[str, ...], *args: str | bytes | int) -> Command:
        """Return the command that runs it."""
        return ("EVALSHA", self.sha, len(keys), *keys, *args)


@cache
def script(name: str, package: str) -> Script:
    """Load the script `name`.lua of a package."""
    source = resources.files(package).joinpath(f"{name}.lua").read_text(encoding="utf-8")
    return Script(source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


async def run_scripted(link: Link, commands: Sequence[Command], scripts: Iterable[Script]) -> list[Any]:
    """Run `commands`; load `scripts` and run those again that wanted one the server does not know.

    Returns:
        A reply for each command, an `IndexRefusedError` where one was refused.

    Raises:
        IndexFailedError: the server did not serve, or would not load a script.
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
