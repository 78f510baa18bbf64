"""Lua scripts and the commands that call them.

A call names its script by its SHA-1 (EVALSHA). A server that does not know the script gets the call again, with
the source (EVAL), and knows it from then on. SCRIPT LOAD would do that too, but fronts such as twemproxy close the
connection on it.
"""

import hashlib
from collections.abc import Sequence
from functools import cache
from importlib import resources

from crossmount._dataclass import dataclass
from crossmount.redis.replies import Command


class ScriptCall(tuple[str | bytes | int, ...]):  # noqa: SLOT001 a tuple of any length can have none
    """A command that calls a script.

    Attributes:
        source: the script.
        carries_source: whether the server gets the source with it, unless an earlier command of its batch has it.
    """

    source: str
    carries_source: bool = False

    @classmethod
    def of(cls, command: Command, source: str, *, carries_source: bool = False) -> "ScriptCall":
        """Make the call of an EVALSHA command."""
        call = cls(command)
        call.source, call.carries_source = source, carries_source
        return call

    @property
    def carried(self) -> "ScriptCall":
        """The same call, which takes the source along."""
        return ScriptCall.of(self, self.source, carries_source=True)

    @property
    def evaluated(self) -> Command:
        """The EVAL command that does the same."""
        return ("EVAL", self.source, *self[2:])

    @property
    def load(self) -> Command:
        """The command that loads the script and does not call it."""
        return ("SCRIPT", "LOAD", self.source)


def with_sources(commands: Sequence[Command]) -> Sequence[Command]:
    """Return the commands for one server: the first call of each script has the source, if its calls carry it."""
    sent: set[object] = set()
    out: list[Command] = []
    for command in commands:
        if isinstance(command, ScriptCall) and command.carries_source and command.source not in sent:
            sent.add(command.source)
            out.append(command.evaluated)
        else:
            out.append(command)
    return out


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script; Redis calls it by its SHA-1."""

    source: str
    sha: str

    def call(self, keys: tuple[str, ...], *args: str | bytes | int) -> ScriptCall:
        """Return the command that runs it."""
        return ScriptCall.of(("EVALSHA", self.sha, len(keys), *keys, *args), self.source)


@cache
def load_script(name: str, package: str) -> Script:
    """Load the file `name`.lua in the folder `scripts` of a package."""
    source = resources.files(package).joinpath("scripts", f"{name}.lua").read_text(encoding="utf-8")
    return Script(source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())
