"""The distribution project's token flow, as a generator that yields requests and receives answers. No I/O.

It is a GET with one `scope` parameter for each scope (Token Authentication Specification), or a POST with an
identity token and all scopes in one `scope` (OAuth2 Token Authentication).
"""

import base64
import re
from collections.abc import Generator
from dataclasses import field, replace
from urllib.parse import urlencode

import httpx

from crossmount._dataclass import dataclass
from crossmount._parsing import http_date, iso_date, json_object, one_line
from crossmount.errors import AccessDeniedError, InvalidAnswerError, RegistryError, RegistryRefusedError
from crossmount.registry.auth.challenge import Bearer
from crossmount.registry.auth.scope import Scope, Wanted, covers
from crossmount.registry.credentials.authfiles import TOKEN_USER, Credential
from crossmount.registry.http.errors import read_errors
from crossmount.registry.http.location import Origin, with_query
from crossmount.registry.http.transport import Answer

LIFETIME_DEFAULT = 60.0
"""The seconds that a token lives if the realm does not send its lifetime."""

_LIFETIME_MAX = 1e9

_CLAIMS_MAX = 64 * 1024

CLIENT_ID = "crossmount"
_TOKEN = re.compile(r"[\x21-\x7e]{1,65536}")


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """A request to a realm; its secrets are not in its repr.

    Attributes:
        form: the form to POST; None means GET.
        authorization: the header's value, if any.
    """

    url: httpx.URL
    form: bytes | None = field(default=None, repr=False)
    authorization: str | None = field(default=None, repr=False)

    @property
    def method(self) -> str:
        """GET or POST."""
        return "GET" if self.form is None else "POST"


@dataclass(frozen=True, slots=True)
class Token:
    """A bearer token.

    Attributes:
        asked: the scopes that it was requested with; a server may silently grant fewer.
        refused: optional scopes that the realm refused.
        lifetime: seconds from now on; None for a token that does not expire.
        refusal: the status with which the realm refused a token for all scopes; 200 if it gave one that lacks
            the `refused` scopes; None if nothing was refused.
    """

    value: str = field(repr=False)
    asked: tuple[Scope, ...] = ()
    refused: tuple[Scope, ...] = ()
    lifetime: float | None = None
    refusal: int | None = None

    def satisfies(self, wanted: Wanted) -> bool:
        """Return whether a new token for `wanted` would allow no more than this one."""
        return covers(self.asked, wanted.needed) and covers((*self.asked, *self.refused), wanted.optional)


@dataclass(frozen=True, slots=True)
class Authorization:
    """What authorizes one request.

    Attributes:
        header: the value of Authorization, or None for a request without.
        credential: the credential behind it, None for an anonymous request.
        token: the token in the header, if it is one.
        lacks_source: whether the token lacks the source of a mount, so that the request would be refused.
    """

    header: str | None = field(default=None, repr=False)
    credential: Credential | None = None
    token: Token | None = None
    lacks_source: bool = False


ANONYMOUS = Authorization()


def basic(credential: Credential) -> str:
    """Return the Authorization header of Basic authentication (RFC 7617)."""
    pair = f"{credential.username or TOKEN_USER}:{credential.secret}"
    return "Basic " + base64.b64encode(pair.encode()).decode("ascii")


def token_flow(
    challenge: Bearer, wanted: Wanted, credential: Credential | None, *, joined: bool = False, looked: str = ""
) -> Generator[TokenRequest, Answer, Token]:
    """Get a token for `wanted`, without the optional scopes if it is refused with them.

    Args:
        challenge: names the realm.
        wanted: the scopes.
        credential: the credential, None for an anonymous token.
        joined: send all scopes in one `scope` parameter, for a realm that reads one only.
        looked: where a credential was looked for, for messages.

    Yields:
        A request; the caller sends its answer into the generator.

    Returns:
        The token.

    Raises:
        RegistryRefusedError: the realm refused; AccessDeniedError where it said 401 or 403.
        InvalidAnswerError: the realm's answer has no token.
    """
    if credential is not None and credential.kind == "registry":
        return Token(credential.secret, asked=wanted.all)
    answer = yield from _ask(challenge, wanted.all, credential, joined=joined)
    refused: tuple[Scope, ...] = ()
    refusal: int | None = None
    if wanted.optional and _is_refusal(answer):  # whatever the status: the sources are only hints
        refused, refusal = wanted.optional, answer.status
        wanted = wanted.without_optional()
        answer = yield from _ask(challenge, wanted.all, credential, joined=joined)
    if answer.status != 200:
        raise _refusal(answer, wanted, credential, looked)
    value, lifetime = read_token(answer)
    if lacking := not_granted(value, wanted):
        refused, refusal = lacking, 200
        wanted = Wanted(wanted.needed, tuple(scope for scope in wanted.optional if scope not in lacking))
    return Token(value, asked=wanted.all, refused=refused, lifetime=lifetime, refusal=refusal)


def not_granted(token: str, wanted: Wanted) -> tuple[Scope, ...]:
    """Return the optional scopes that a token's own claims leave out. The claims are not verified: a hint.

    It is the `access` claim of a JSON Web Token (distribution, "Token Authentication Implementation"). A token
    whose claim lacks what is needed is not taken at its word.
    """
    if not wanted.optional or len(token) > _CLAIMS_MAX:
        return ()
    try:
        claims = json_object(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    except (IndexError, ValueError):
        return ()
    entries = (claims or {}).get("access")
    granted = [scope for entry in entries if (scope := _scope_of(entry))] if isinstance(entries, list) else []
    if not wanted.needed or not covers(granted, wanted.needed):
        return ()
    return tuple(scope for scope in wanted.optional if not covers(granted, [scope]))


def _scope_of(entry: object) -> Scope | None:
    fields = entry if isinstance(entry, dict) else {}
    kind, name, actions = (fields.get(key) for key in ("type", "name", "actions"))
    if not isinstance(kind, str) or not isinstance(name, str) or not isinstance(actions, list):
        return None
    return Scope(kind, name, tuple(action for action in actions if isinstance(action, str)))


def _ask(
    challenge: Bearer, scopes: tuple[Scope, ...], credential: Credential | None, *, joined: bool
) -> Generator[TokenRequest, Answer, Answer]:
    realm = httpx.URL(challenge.realm)
    if credential is not None and credential.kind == "identity":
        answer = yield _post(realm, challenge, scopes, credential)
        if answer.status not in {404, 405}:
            return answer
    pairs = [("service", challenge.service)] if challenge.service else []
    texts = [str(scope) for scope in scopes]
    pairs += [("scope", text) for text in ([" ".join(texts)] if joined and texts else texts)]
    url = with_query(realm, urlencode(pairs)) if pairs else realm
    return (yield TokenRequest(url, authorization=None if credential is None else basic(credential)))


def _post(realm: httpx.URL, challenge: Bearer, scopes: tuple[Scope, ...], credential: Credential) -> TokenRequest:
    form = {
        "grant_type": "refresh_token",
        "service": challenge.service,
        "client_id": CLIENT_ID,
        "refresh_token": credential.secret,
    }
    if scopes:
        form["scope"] = " ".join(map(str, scopes))
    return TokenRequest(realm, form=urlencode(form).encode("ascii"))


def _is_refusal(answer: Answer) -> bool:
    return answer.status >= 400 and answer.status not in {408, 429}


def _refusal(answer: Answer, wanted: Wanted, credential: Credential | None, looked: str) -> RegistryError:
    host = Origin.of(answer.url).authority
    who = f"no credentials found{looked}, log in"
    if credential is not None:
        who = f"credentials from {credential.origin}"
        answer = replace(answer, secrets=(*answer.secrets, credential.secret))  # a form holds it, too
    scopes = one_line(" ".join(map(str, wanted.all))) or "nothing in particular"
    words = read_errors(answer).words or _oauth_words(answer)
    message = f"{host} gave no token for {scopes} ({who}): {answer.status}{': ' if words else ''}{words}"
    if answer.status in {401, 403}:
        return AccessDeniedError(message, status=answer.status)
    if answer.status < 400:
        return InvalidAnswerError(message)
    return RegistryRefusedError(message, status=answer.status)


def _oauth_words(answer: Answer) -> str:
    """Return the error in a body of RFC 6749 (5.2), or of the many servers that send `details` or `message`."""
    document = json_object(answer.body) or {}
    words = (document.get(key) for key in ("error", "error_description", "details", "message"))
    return one_line(answer.masked(": ".join(word for word in words if isinstance(word, str) and word)))


def read_token(answer: Answer) -> tuple[str, float]:
    """Return the token in a realm's answer, and the seconds until it expires.

    Raises:
        InvalidAnswerError: there is no token, or it does not fit into a header.
    """
    document = json_object(answer.body) or {}
    value = document.get("token") or document.get("access_token")
    if not isinstance(value, str) or not _TOKEN.fullmatch(value):
        raise InvalidAnswerError(
            f"{Origin.of(answer.url).authority}: it answered a request for a token with no usable token"
        )
    expires_in = document.get("expires_in")
    lifetime = LIFETIME_DEFAULT
    if isinstance(expires_in, int | float) and 0 < expires_in < _LIFETIME_MAX:
        lifetime = float(expires_in)
    return value, max(0.0, lifetime - _age(document.get("issued_at"), answer.headers.get("date")))


def _age(issued_at: object, date: str | None) -> float:
    """Return the age, by the realm's own clock, of a token that the realm took from its cache."""
    issued, sent = iso_date(str(issued_at)), http_date(date or "")
    return 0.0 if issued is None or sent is None else max(0.0, sent - issued)
