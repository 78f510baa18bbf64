"""Scopes: the permissions of a token (distribution project, "Token Scope Documentation"). Values, no I/O."""

import re
from collections.abc import Collection, Iterable

from crossmount._dataclass import dataclass
from crossmount.oci import Repository

_SCOPE = re.compile(r"(?P<kind>[a-z0-9()]+):(?P<name>[\x21-\x7e]+):(?P<actions>[a-z*]+(?:,[a-z*]+)*)")
_SCOPES_MAX = 16


@dataclass(frozen=True, slots=True, order=True)
class Scope:
    """One resource and the actions on it.

    Attributes:
        kind: `repository` or `registry`.
        name: the resource's name.
        actions: sorted, each once.
    """

    kind: str
    name: str
    actions: tuple[str, ...]

    def __post_init__(self) -> None:
        """Sort the actions, so that equal scopes are equal values."""
        object.__setattr__(self, "actions", tuple(sorted(set(self.actions))))

    @property
    def resource(self) -> tuple[str, str]:
        """The resource, without the actions."""
        return self.kind, self.name

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}:{','.join(self.actions)}"


def pull(repository: Repository) -> Scope:
    """Return the scope for reading from `repository`."""
    return Scope("repository", repository.name, ("pull",))


def push(repository: Repository) -> Scope:
    """Return the scope for writing to `repository`, which includes reading."""
    return Scope("repository", repository.name, ("pull", "push"))


def delete(repository: Repository) -> Scope:
    """Return the scope for deleting from `repository`."""
    return Scope("repository", repository.name, ("delete",))


CATALOG = Scope("registry", "catalog", ("*",))
"""The scope for listing a registry's repositories."""


def parse_scopes(text: str) -> tuple[Scope, ...]:
    """Return the scopes of a challenge, which are separated by spaces (Harbor); unknown ones are skipped."""
    found = (_SCOPE.fullmatch(word) for word in text.split()[:_SCOPES_MAX])
    return merge(Scope(m["kind"], m["name"], tuple(m["actions"].split(","))) for m in found if m is not None)


def merge(*groups: Iterable[Scope]) -> tuple[Scope, ...]:
    """Return all scopes with each resource once, its actions joined, in the order of first appearance."""
    merged: dict[tuple[str, str], Scope] = {}
    for group in groups:
        for scope in group:
            known = merged.get(scope.resource)
            actions = scope.actions if known is None else known.actions + scope.actions
            merged[scope.resource] = Scope(scope.kind, scope.name, actions)
    return tuple(merged.values())


def covers(have: Collection[Scope], want: Iterable[Scope]) -> bool:
    """Return whether `have` allows all of `want`."""
    allowed = {scope.resource: set(scope.actions) for scope in merge(have)}
    return all(
        "*" in (actions := allowed.get(scope.resource, set())) or actions.issuperset(scope.actions)
        for scope in want
    )


@dataclass(frozen=True, slots=True)
class Wanted:
    """The scopes that a request asks for.

    Attributes:
        needed: the request fails without them.
        optional: the scopes of a mount's sources. If a token is refused with them, it is requested without them.
    """

    needed: tuple[Scope, ...] = ()
    optional: tuple[Scope, ...] = ()

    def __or__(self, other: "Wanted") -> "Wanted":
        """Return the scopes of both, this one's first; a scope that one of them needs is not optional."""
        needed = merge(self.needed, other.needed)
        optional = merge(self.optional, other.optional)
        return Wanted(needed, tuple(scope for scope in optional if not covers(needed, [scope])))

    def challenged_for(self, scopes: Collection[Scope]) -> "Wanted":
        """Return these scopes with those of a challenge first, because some servers read only one.

        A challenge for an optional resource leaves it optional.
        """
        needed = {scope.resource for scope in self.needed}
        optional = {scope.resource for scope in self.optional} - needed
        first = Wanted(
            tuple(scope for scope in scopes if scope.resource not in optional),
            tuple(scope for scope in scopes if scope.resource in optional),
        )
        return first | self

    def without_optional(self) -> "Wanted":
        """Return the needed scopes alone."""
        return Wanted(self.needed)

    @property
    def all(self) -> tuple[Scope, ...]:
        """All scopes, in the order of the token request."""
        return merge(self.needed, self.optional)


NOTHING = Wanted()
"""No scopes."""
