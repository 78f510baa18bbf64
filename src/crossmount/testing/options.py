"""The traits of a scripted registry, and the rights of its users, as values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

ANYTHING = frozenset({"pull", "push", "delete", "*"})
READ = frozenset({"pull"})
WRITE = frozenset({"pull", "push"})


@dataclass(frozen=True, slots=True)
class Grant:
    """What is allowed on the repositories whose name fits a pattern (`*` is any text, slashes too)."""

    pattern: str = "*"
    actions: frozenset[str] = ANYTHING


@dataclass(frozen=True, slots=True)
class TokenScope:
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

    def allowed(self, user: str | None, scope: TokenScope) -> frozenset[str]:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryOptions:
    """The traits of a scripted registry; by default those of a plain, open registry that mounts.

    Attributes:
        mounts: carries out mounts; else every mount opens an upload session (202).
        finds: mounts without `from`, from whatever repository holds the blob.
        after_manifest: mounts only what a manifest in the source repository references, as ECR does.
        denied_sources: repositories that may not be mounted from.
        denied_status: what a mount from a denied source is answered with, 401 or 403.
        false_mounts: patterns of digests whose mount is answered with 201 and not carried out; distribution does
            this to `sha512:*`.
        blob_heads: which blobs a HEAD reports: those of its own repository; all blobs of the registry
            (`anywhere`); or all, and the repository holds the blob from then on (`linking`, as zot does).
        commit_seconds: seconds between the last byte of an upload and its being a blob, as with object storage.
        relative_locations: Locations without scheme and host.
        location_base: scheme, host and port of Locations instead of the registry's own.
        location_state: Locations of sessions carry a `_state` that must come back.
        checks_references: a manifest that names an absent blob or manifest is refused.
        deletes: blobs, manifests and tags can be deleted (else 405).
        cancels: sessions can be cancelled (else 405).
        page_size: the longest page of tags and repositories.
        latency: seconds that every answer waits, as on a long way.
        root: a folder for the bytes of blobs, which are kept in memory otherwise. What is there of an
            earlier run is not looked at.
        auth: who may do what; anybody anything by default.
    """

    mounts: bool = True
    finds: bool = False
    after_manifest: bool = False
    denied_sources: frozenset[str] = frozenset()
    denied_status: int = 401
    false_mounts: tuple[str, ...] = ()
    blob_heads: Literal["own", "anywhere", "linking"] = "own"
    commit_seconds: float = 0.0
    relative_locations: bool = False
    location_base: str | None = None
    location_state: bool = True
    checks_references: bool = True
    deletes: bool = True
    cancels: bool = True
    page_size: int = 1000
    latency: float = 0.0
    root: Path | None = None
    auth: Auth | None = None
