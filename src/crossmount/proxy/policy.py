"""The policy of a proxy: rules that options cannot express. A TOML file, read at the start and on a reload.

    [[upstream]]                        # a registry behind the proxy, as by --upstream
    url = "https://registry.example.com"
    name = "registry.example.com"       # default: the URL's host and port
    allow_sources = ["base/*"]          # layers are mounted from these repositories alone
    authfile = "/etc/crossmount/registry.json"

    [[rule]]                            # the first rule that fits a repository counts
    repositories = ["team-a/*"]
    upstream = "registry.example.com"   # default: every upstream
    pushers = ["ann", "ci-a"]           # callers that may write; default: all
    readers = ["ann", "ci-a", "ci-b"]   # callers that may read; default: all
    allow_sources = ["team-a/*", "base/*"]
    uploads = 8                         # uploads at once into these repositories
    bytes_per_day = "500GiB"            # uploaded bytes a day (UTC), counted by this process

A repository that no rule matches is open to every caller. A last rule with `repositories = ["*"]` and
`pushers = []` closes it.
"""

import difflib
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeVar

from crossmount._dataclass import dataclass
from crossmount._parsing import byte_size
from crossmount.errors import InvalidInputError

SOURCE_PATTERN = re.compile(r"(?:[a-z0-9._/*-]|\[[a-z0-9._-]+\]|\?)+")
"""A pattern of repositories: `*` is any text, also slashes, `?` one letter, `[…]` one of several letters."""

V = TypeVar("V")

_FILE_MAX = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamEntry:
    """An `[[upstream]]` of the file; empty values are those of the command line."""

    url: str
    name: str = ""
    allow_sources: tuple[str, ...] = ()
    authfile: Path | None = None
    ca_file: Path | None = None
    insecure: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A `[[rule]]` of the file.

    Attributes:
        repositories: patterns of the repositories that it is for.
        upstream: the name of the upstream that it is for; empty for every one.
        pushers: the callers that may write; None for all.
        readers: the callers that may read; None for all.
        allow_sources: patterns of the repositories that may be mounted from; empty for all.
        uploads: the most uploads at once into these repositories; None for no limit.
        bytes_per_day: the most uploaded bytes a day; None for no limit.
    """

    repositories: tuple[str, ...] = ("*",)
    upstream: str = ""
    pushers: frozenset[str] | None = None
    readers: frozenset[str] | None = None
    allow_sources: tuple[str, ...] = ()
    uploads: int | None = None
    bytes_per_day: int | None = None

    def fits(self, upstream: str, repository: str) -> bool:
        """Return whether the rule is for a repository of an upstream."""
        return self.upstream in {"", upstream} and matches(self.repositories, repository)

    def may_push(self, caller: str) -> bool:
        """Return whether a caller may write."""
        return self.pushers is None or caller in self.pushers

    def may_read(self, caller: str) -> bool:
        """Return whether a caller may read. A pusher may read what it pushes."""
        return self.readers is None or caller in self.readers or caller in (self.pushers or ())


OPEN = Rule()
"""The rule for a repository that no rule matches."""


@dataclass(frozen=True, slots=True)
class Policy:
    """The content of a policy file."""

    upstreams: tuple[UpstreamEntry, ...] = ()
    rules: tuple[Rule, ...] = ()

    def rule_for(self, upstream: str, repository: str) -> Rule:
        """Return the rule that counts for a repository of an upstream."""
        return next((rule for rule in self.rules if rule.fits(upstream, repository)), OPEN)

    @property
    def names_callers(self) -> bool:
        """Whether some rule restricts its repositories to some callers."""
        return any(rule.pushers is not None or rule.readers is not None for rule in self.rules)

    def hides_from(self, upstream: str, caller: str) -> bool:
        """Return whether a caller may not read some repositories of an upstream."""
        return any(rule.upstream in {"", upstream} and not rule.may_read(caller) for rule in self.rules)


def matches(patterns: Iterable[str], name: str) -> bool:
    """Return whether a name fits one of the patterns (`*` is any text, also slashes)."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def read_policy(path: Path) -> Policy:
    """Read a policy file.

    Raises:
        InvalidInputError: it cannot be read, is not TOML, or has an unknown key or an invalid value; the message
            names the file and the place.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_FILE_MAX + 1)
    except OSError as error:
        raise InvalidInputError(f"{path}: the policy cannot be read: {error.strerror}") from error
    if len(content) > _FILE_MAX:
        raise InvalidInputError(f"{path}: a policy has at most {_FILE_MAX} bytes")
    try:
        document = tomllib.loads(content.decode())
    except (ValueError, RecursionError) as error:  # also of a number with thousands of digits
        raise InvalidInputError(f"{path}: not TOML: {error}") from error
    top = _Table(path, "", document, {"upstream", "rule"})
    policy = Policy(
        tuple(_upstream(table) for table in top.tables("upstream", {*_UPSTREAM_KEYS})),
        tuple(_rule(table) for table in top.tables("rule", {*_RULE_KEYS})),
    )
    names = {entry.name for entry in policy.upstreams}
    if len(names - {""}) != sum(1 for entry in policy.upstreams if entry.name):
        raise InvalidInputError(f"{path}: two upstreams have the same name")
    return policy


_UPSTREAM_KEYS = ("url", "name", "allow_sources", "authfile", "ca_file", "insecure")
_RULE_KEYS = ("repositories", "upstream", "pushers", "readers", "allow_sources", "uploads", "bytes_per_day")


def _upstream(table: "_Table") -> UpstreamEntry:
    return UpstreamEntry(
        url=table.text("url", required=True),
        name=table.text("name"),
        allow_sources=table.patterns("allow_sources"),
        authfile=table.file("authfile"),
        ca_file=table.file("ca_file"),
        insecure=table.take("insecure", bool, "true or false", default=False),
    )


def _rule(table: "_Table") -> Rule:
    return Rule(
        repositories=table.patterns("repositories", required=True),
        upstream=table.text("upstream"),
        pushers=table.names("pushers"),
        readers=table.names("readers"),
        allow_sources=table.patterns("allow_sources"),
        uploads=table.number("uploads"),
        bytes_per_day=table.size("bytes_per_day"),
    )


@dataclass(frozen=True, slots=True)
class _Table:
    """A table of the file, whose values are taken by key and checked.

    Attributes:
        path: the file.
        where: the table's place in the file, for messages.
        values: its content.
        keys: the keys that it may have.
    """

    path: Path
    where: str
    values: Mapping[str, Any]
    keys: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        for key in self.values.keys() - self.keys:
            near = difflib.get_close_matches(key, self.keys, 1)
            hint = f": did you mean {near[0]}?" if near else f": there are {', '.join(sorted(self.keys))}"
            raise self._error(key, f"unknown key{hint}")

    def _error(self, key: str, message: str) -> InvalidInputError:
        return InvalidInputError(f"{self.path}: {self.where}{key[:100]!s}: {message}")

    def tables(self, key: str, keys: set[str]) -> Iterable["_Table"]:
        found = self.take(key, list, f"write it as [[{key}]]", default=[])
        for number, values in enumerate(found, start=1):
            if not isinstance(values, dict):
                raise self._error(key, f"write it as [[{key}]]")
            yield _Table(self.path, f"{key} {number}: ", values, keys)

    def take(self, key: str, kind: type[V], words: str, *, default: V) -> V:
        value = self.values.get(key, default)
        if type(value) is not kind:
            raise self._error(key, words)
        return value

    def text(self, key: str, *, required: bool = False) -> str:
        value = self.take(key, str, "give a text", default="")
        if (required or key in self.values) and not value:
            raise self._error(key, "give a text that is not empty")
        return value

    def file(self, key: str) -> Path | None:
        value = self.text(key)
        return self.path.parent / value if value else None

    def number(self, key: str) -> int | None:
        if key not in self.values:
            return None
        value = self.take(key, int, "give a whole number", default=0)
        if value < 1:
            raise self._error(key, "give 1 or more")
        return value

    def size(self, key: str) -> int | None:
        if type(self.values.get(key)) is int:
            return self.number(key)
        value = self.text(key)
        size = byte_size(value) if value else None
        if value and not size:
            raise self._error(key, "give a number of bytes, such as 500GiB")
        return size

    def names(self, key: str) -> frozenset[str] | None:
        if key not in self.values:
            return None
        return frozenset(self._texts(key, bool, "give names of callers in a list"))

    def patterns(self, key: str, *, required: bool = False) -> tuple[str, ...]:
        words = "give a list of repository names without the registry, in lower case; * is any text: ['base/*']"
        found = self._texts(key, lambda text: SOURCE_PATTERN.fullmatch(text) is not None, words)
        if (required or key in self.values) and not found:
            raise self._error(key, words)
        return found

    def _texts(self, key: str, valid: Callable[[str], object], words: str) -> tuple[str, ...]:
        found = self.take(key, list, words, default=[])
        if not all(isinstance(text, str) and valid(text) for text in found):
            raise self._error(key, words)
        return tuple(found)
