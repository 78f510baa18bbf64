"""Checks the rights of every request, and issues tokens."""

import base64
import binascii
import json
from collections.abc import Iterable, Mapping
from urllib.parse import parse_qsl

from crossmount._dataclass import dataclass
from crossmount.oci.reference import is_repository_name
from crossmount.testing.options import ANYTHING, READ, WRITE, Auth, BasicAuth, TokenAuth, TokenScope
from crossmount.testing.routes import (
    CancelUpload,
    DeleteBlob,
    DeleteManifest,
    ListReferrers,
    ListRepositories,
    ListTags,
    MountBlob,
    Operation,
    PostUpload,
    ReadBlob,
    ReadManifest,
    VersionCheck,
)
from crossmount.testing.values import DistributionError, Request, Response, json_response

TOKEN_PATH = "/token"


@dataclass(slots=True)
class _Token:
    user: str | None
    granted: tuple[TokenScope, ...]
    uses_left: int | None


class AccessControl:
    """Refuses requests without the necessary rights, and issues tokens.

    Attributes:
        realm: the URL of the token service; set when the server knows its ports.
    """

    def __init__(self, auth: Auth | None) -> None:
        self._auth = auth
        self._tokens: dict[str, _Token] = {}
        self._count = 0
        self.realm = TOKEN_PATH

    @property
    def tokens(self) -> tuple[str, ...]:
        """All issued tokens."""
        return tuple(self._tokens)

    def check(self, request: Request, operation: Operation) -> Operation:
        """Return the operation to carry out: the requested one, or an upload in the place of a mount.

        Raises:
            DistributionError: 401 with a challenge, or 403 for a user without the right.
        """
        hides_sources = self._auth is not None and self._auth.hides_sources
        try:
            self._check(request, needed_scopes(operation))
        except DistributionError as refused:
            if not (hides_sources and isinstance(operation, MountBlob)):
                raise
            operation = PostUpload(operation.name)
            try:
                self._check(request, needed_scopes(operation))
            except DistributionError:
                raise refused from None
        return operation

    def _check(self, request: Request, needed: tuple[TokenScope, ...]) -> None:
        match self._auth:
            case None:
                return
            case BasicAuth() as basic:
                _check_basic(basic, request, needed)
            case TokenAuth() as tokens:
                self._check_token(tokens, request, needed)

    def issue(self, request: Request, body: bytes) -> Response:
        """Answer a request to the token service.

        Raises:
            DistributionError: there is no token service, or the credentials or a scope are refused.
        """
        auth = self._auth
        if not isinstance(auth, TokenAuth):
            raise DistributionError(404, "NAME_UNKNOWN", "there is no token service here")
        match request.method:
            case "GET":
                user = _basic_user(auth, request)
                scopes = read_scopes(request.params("scope"))
                return self._token_answer(auth, user, scopes, {})
            case "POST" if auth.oauth:
                form = dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))
                user = _form_user(auth, form)
                scopes = read_scopes(form.get("scope", "").split(" "))
                return self._token_answer(auth, user, scopes, self._refresh(auth, form, user))
            case _:
                raise DistributionError(405, "UNSUPPORTED", "the token service does not support this method")

    def _token_answer(
        self, auth: TokenAuth, user: str | None, scopes: tuple[TokenScope, ...], more: Mapping[str, str]
    ) -> Response:
        granted = self._grant(auth, user, scopes[: 1 if auth.reads_first_scope else auth.scopes_max])
        self._count += 1
        token = f"{auth.prefix}{self._count}"
        if auth.tells_access:
            token = _web_token(token, granted)
        self._tokens[token] = _Token(user, granted, auth.uses)
        answer: dict[str, object] = {"token": token, "access_token": token, **more}
        if auth.expires_in is not None:
            answer["expires_in"] = auth.expires_in
        return json_response(answer)

    def _grant(self, auth: TokenAuth, user: str | None, scopes: tuple[TokenScope, ...]) -> tuple[TokenScope, ...]:
        granted = tuple(TokenScope(scope.kind, scope.name, auth.allowed(user, scope)) for scope in scopes)
        if auth.refuses_whole and granted != scopes:
            raise DistributionError(403, "DENIED", "a requested scope is refused")
        return granted

    def _refresh(self, auth: TokenAuth, form: Mapping[str, str], user: str | None) -> dict[str, str]:
        """Return the user's identity token if the client requests offline access and the user has one."""
        if form.get("access_type") != "offline":
            return {}
        owned = [token for token, owner in auth.identity_tokens.items() if owner == user]
        return {"refresh_token": owned[0]} if owned else {}

    def _check_token(self, auth: TokenAuth, request: Request, needed: tuple[TokenScope, ...]) -> None:
        scheme, _, value = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            raise self._challenge(auth, needed)
        token = self._tokens.get(value.strip())
        if token is None or token.uses_left == 0:
            raise self._challenge(auth, needed, "invalid_token")
        if token.uses_left is not None:
            token.uses_left -= 1
        if not all(any(_covers(has, scope) for has in token.granted) for scope in needed):
            raise self._challenge(auth, needed, "insufficient_scope")

    def _challenge(self, auth: TokenAuth, needed: Iterable[TokenScope], error: str = "") -> DistributionError:
        scope = " ".join(str(scope) for scope in needed)
        parts = (
            ("realm", auth.realm or self.realm),
            ("service", auth.service),
            ("scope", scope),
            ("error", error),
        )
        challenge = "Bearer " + ",".join(f'{key}="{value}"' for key, value in parts if value)
        return DistributionError(
            401, "UNAUTHORIZED", "authentication required", (("WWW-Authenticate", challenge),)
        )


def _web_token(name: str, granted: Iterable[TokenScope]) -> str:
    """Return a JSON Web Token without a signature."""
    access = [{"type": s.kind, "name": s.name, "actions": sorted(s.actions)} for s in granted if s.actions]
    parts = ({"alg": "none"}, {"jti": name, "access": access})
    encoded = (base64.urlsafe_b64encode(json.dumps(part).encode()) for part in parts)
    return ".".join([*(part.rstrip(b"=").decode() for part in encoded), ""])


def needed_scopes(operation: Operation) -> tuple[TokenScope, ...]:
    """Return the scopes that an operation needs; a mount also needs its source."""
    match operation:
        case VersionCheck():
            return ()
        case ListRepositories():
            return (TokenScope("registry", "catalog", frozenset("*")),)
        case ListTags() | ListReferrers() | ReadManifest() | ReadBlob():
            return (TokenScope("repository", operation.name, READ),)
        case DeleteManifest() | DeleteBlob() | CancelUpload():
            return (TokenScope("repository", operation.name, frozenset({"delete"})),)
        case MountBlob(source=str() as source):
            return (TokenScope("repository", operation.name, WRITE), TokenScope("repository", source, READ))
        case _:
            return (TokenScope("repository", operation.name, WRITE),)


def read_scopes(texts: Iterable[str]) -> tuple[TokenScope, ...]:
    """Read the scopes of a token request.

    Raises:
        DistributionError: a scope breaks the grammar; this refuses the whole token, as on Docker Hub.
    """
    return tuple(_read_scope(part) for text in texts for part in text.split(" ") if part)


def _read_scope(text: str) -> TokenScope:
    kind, _, rest = text.partition(":")
    name, _, actions = rest.rpartition(":")
    if kind not in {"repository", "registry"} or not is_repository_name(name) or not actions:
        raise DistributionError(400, "NAME_INVALID", f"not a scope: {text[:200]!r}")
    return TokenScope(kind, name, frozenset(actions.split(",")) & ANYTHING)


def _covers(granted: TokenScope, needed: TokenScope) -> bool:
    same = (granted.kind, granted.name) == (needed.kind, needed.name)
    return same and needed.actions <= granted.actions


def _check_basic(auth: BasicAuth, request: Request, needed: tuple[TokenScope, ...]) -> None:
    user = _basic_user(auth, request)
    if all(auth.allowed(user, scope) == scope.actions for scope in needed) and (user or needed):
        return
    if user is None:
        raise _basic_challenge("authentication required")
    raise DistributionError(403, "DENIED", "not allowed")


def _basic_user(auth: Auth, request: Request) -> str | None:
    """Return the user of a request; None if it has no Authorization header.

    Raises:
        DistributionError: the header is not Basic, or the credentials are wrong.
    """
    header = request.headers.get("authorization")
    if header is None:
        return None
    scheme, _, value = header.partition(" ")
    try:
        user, _, password = base64.b64decode(value, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        user, password = "", ""
    if scheme.lower() != "basic" or not auth.knows(user, password):
        raise _basic_challenge("wrong user name or password")
    return user


def _form_user(auth: TokenAuth, form: Mapping[str, str]) -> str:
    match form.get("grant_type"):
        case "password" if auth.knows(form.get("username", ""), form.get("password", "")):
            return form["username"]
        case "refresh_token" if form.get("refresh_token") in auth.identity_tokens:
            return auth.identity_tokens[form["refresh_token"]]
        case _:
            raise DistributionError(401, "UNAUTHORIZED", "wrong credentials")


def _basic_challenge(message: str) -> DistributionError:
    return DistributionError(401, "UNAUTHORIZED", message, (("WWW-Authenticate", 'Basic realm="registry"'),))
