"""Who may do what on a scripted registry, as values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

ANYTHING = frozenset({"pull", "push", "delete", "*"})
READ = frozenset({"pull"})
WRITE = frozenset({"pull", "push"})


@dataclass(frozen=True, slots=True)
class Grant:
    """What is allowed on the repositories whose name fits a pattern (`*` is any text, slashes too)."""

    pattern: str = "*"
    actions: frozenset[str] = ANYTHING


@dataclass(frozen=True, slots=True)
class Scope:
    """What is asked for: some actions on a resource (distribution, "Token Scope Documentation")."""

    kind: str
    name: str
    actions: frozenset[str]

    def __str__(self) -> str:
        order = ("pull", "push", "delete", "*")
        return f"{self.kind}:{self.name}:{','.join(a for a in order if a in self.actions)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rights:
    """Users, and what each may do.

    Attributes:
        users: passwords by user name.
        grants: what a user may do; a user who is not named here may do anything.
        anonymous: what may be done without a name.
        hides_sources: a mount from a source that the user may not read opens an upload session (202), as at
            Quay; else it is refused.
    """

    users: Mapping[str, str] = field(default_factory=dict)
    grants: Mapping[str, tuple[Grant, ...]] = field(default_factory=dict)
    anonymous: tuple[Grant, ...] = ()
    hides_sources: bool = False

    def knows(self, user: str, password: str) -> bool:
        """Tell whether this is a user with that password."""
        return user in self.users and self.users[user] == password

    def allowed(self, user: str | None, scope: Scope) -> frozenset[str]:
        """Return the part of a scope's actions that a user may take."""
        grants = self.anonymous if user is None else self.grants.get(user, (Grant(),))
        given = (grant.actions for grant in grants if fnmatchcase(scope.name, grant.pattern))
        return scope.actions & frozenset[str]().union(*given)


@dataclass(frozen=True, slots=True, kw_only=True)
class BasicAuth(Rights):
    """Every request carries a user name and a password."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenAuth(Rights):
    """Requests carry tokens that a token service gives (distribution, "Token Authentication").

    Attributes:
        service: what the challenge calls the registry.
        realm: where the challenge sends clients, instead of the service at `/token`.
        separate_port: the token service has a port of its own.
        refuses_whole: a token is refused if one of its scopes is; else less is granted, silently.
        reads_first_scope: of repeated scopes only the first is looked at.
        oauth: POST (OAuth2) is served beside GET.
        expires_in: the seconds of life that an answer tells; None leaves them out. Not enforced.
        uses: after how many requests a token is no longer accepted; None is never.
        identity_tokens: user names by identity (refresh) token.
        prefix: how every token begins.
    """

    service: str = "scripted-registry"
    realm: str | None = None
    separate_port: bool = False
    refuses_whole: bool = False
    reads_first_scope: bool = False
    oauth: bool = True
    expires_in: int | None = 300
    uses: int | None = None
    identity_tokens: Mapping[str, str] = field(default_factory=dict)
    prefix: str = "token-"


Auth = BasicAuth | TokenAuth
