"""The traits of a scripted registry, and the rights of its users, as values."""

from collections.abc import Mapping
from dataclasses import field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from crossmount._dataclass import dataclass

ANYTHING = frozenset({"pull", "push", "delete", "*"})
READ = frozenset({"pull"})
WRITE = frozenset({"pull", "push"})


@dataclass(frozen=True, slots=True)
class Grant:
    """Actions allowed on repositories whose name matches a pattern; `*` matches any text, slashes included."""

    pattern: str = "*"
    actions: frozenset[str] = ANYTHING


@dataclass(frozen=True, slots=True)
class TokenScope:
    """Actions on a resource that a request needs (distribution, "Token Scope Documentation")."""

    kind: str
    name: str
    actions: frozenset[str]

    def __str__(self) -> str:
        order = ("pull", "push", "delete", "*")
        return f"{self.kind}:{self.name}:{','.join(a for a in order if a in self.actions)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rights:
    """Users and their rights.

    Attributes:
        users: passwords by user name.
        grants: rights by user name; a user without an entry may do anything.
        anonymous: rights of requests without a user.
        hides_sources: a mount from a source that the user may not read opens an upload session (202), as at
            Quay; else it is refused.
    """

    users: Mapping[str, str] = field(default_factory=dict)
    grants: Mapping[str, tuple[Grant, ...]] = field(default_factory=dict)
    anonymous: tuple[Grant, ...] = ()
    hides_sources: bool = False

    def knows(self, user: str, password: str) -> bool:
        """Return whether a user with this name and password exists."""
        return user in self.users and self.users[user] == password

    def allowed(self, user: str | None, scope: TokenScope) -> frozenset[str]:
        """Return the actions of a scope that a user has; None is a request without a user."""
        grants = self.anonymous if user is None else self.grants.get(user, (Grant(),))
        given = (grant.actions for grant in grants if fnmatchcase(scope.name, grant.pattern))
        return scope.actions & frozenset[str]().union(*given)


@dataclass(frozen=True, slots=True, kw_only=True)
class BasicAuth(Rights):
    """Every request carries a user name and a password."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenAuth(Rights):
    """Every request carries a token of the token service (distribution, "Token Authentication").

    Attributes:
        service: the name of the registry in challenges.
        realm: the URL in challenges; None is that of the token service at `/token`.
        separate_port: whether the token service has its own port.
        refuses_whole: whether one refused scope refuses the token; otherwise the token silently lacks that scope.
        reads_first_scope: whether all `scope` parameters but the first are ignored.
        scopes_max: the most scopes that a token allows; further ones are ignored. None sets no limit.
        tells_access: whether a token is a JSON Web Token (unsigned) whose `access` claim says what it allows.
        oauth: whether the token service accepts POST (OAuth2) as well as GET.
        expires_in: the `expires_in` of answers, in seconds; None omits it. Not enforced.
        uses: number of requests that a token is accepted for; None sets no limit.
        identity_tokens: user names by identity (refresh) token.
        prefix: the first characters of every token.
    """

    service: str = "scripted-registry"
    realm: str | None = None
    separate_port: bool = False
    refuses_whole: bool = False
    reads_first_scope: bool = False
    scopes_max: int | None = None
    tells_access: bool = False
    oauth: bool = True
    expires_in: int | None = 300
    uses: int | None = None
    identity_tokens: Mapping[str, str] = field(default_factory=dict)
    prefix: str = "token-"


Auth = BasicAuth | TokenAuth


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryOptions:
    """The behaviour of a scripted registry; by default an open registry that mounts.

    Attributes:
        mounts: whether mounts succeed; otherwise every mount opens an upload session (202).
        finds: whether a mount without `from` succeeds if any repository has the blob.
        after_manifest: whether a mount needs a manifest in the source that references the blob, as on ECR.
        denied_sources: repositories from which every mount is refused.
        denied_status: the status of such a refusal, 401 or 403.
        false_mounts: patterns of digests whose mount gets a 201 but does not happen; distribution does this to
            `sha512:*`.
        blob_heads: which blobs a HEAD reports: those of its own repository; all blobs of the registry
            (`anywhere`); or all, and the repository has the blob from then on (`linking`, as on zot).
        commit_seconds: seconds from the last byte of an upload until the blob exists, as with object storage.
        relative_locations: whether Locations lack scheme and host.
        location_base: scheme, host and port of Locations; None is those of the registry.
        location_state: whether Locations of sessions have a `_state` parameter that requests must repeat.
        checks_ranges: whether a chunk whose Content-Range does not follow is refused; distribution before 3 looks
            at the `_state` of the Location alone.
        checks_references: whether a manifest that names an absent blob or manifest is refused.
        deletes: whether blobs, manifests and tags can be deleted (otherwise 405).
        cancels: whether upload sessions can be cancelled (otherwise 405).
        page_size: maximum number of tags or repositories on a page.
        latency: seconds of delay before every answer.
        root: the folder for the bytes of blobs; None keeps them in memory. Files of an earlier run are ignored.
        auth: users and their rights; None allows everything to everybody.
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
    checks_ranges: bool = True
    checks_references: bool = True
    deletes: bool = True
    cancels: bool = True
    page_size: int = 1000
    latency: float = 0.0
    root: Path | None = None
    auth: Auth | None = None
