"""The Lua scripts, one file each, and the commands that call them."""

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib import resources

from crossmount.index.link import Command


@dataclass(frozen=True, slots=True)
class Script:
    """A script of this package, called by its SHA-1 as Redis names it."""

    source: str
    sha: str

    def call(self, keys: tuple[str, ...], *args: str | int) -> Command:
        """Return the command that runs it."""
        return ("EVALSHA", self.sha, len(keys), *keys, *args)


@cache
def script(name: str) -> Script:
    """Load the script `name`.lua."""
    source = resources.files(__name__).joinpath(f"{name}.lua").read_text(encoding="utf-8")
    return Script(source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())
