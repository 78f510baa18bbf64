"""Bearer tokens in client mode: the registry's tokens stay in the proxy; a caller gets a random name for each.

A client requests a token with the scopes that it knows. The proxy forwards the request to the registry's realm,
and stores the token together with the credentials that the client sent. With these credentials it can later
request tokens for more scopes: the sources of a mount.
"""

import asyncio
import base64
import json
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection
from dataclasses import field, replace
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlencode

import httpx

from crossmount._dataclass import dataclass
from crossmount.errors import InvalidAnswerError
from crossmount.proxy.auth.callers import BASIC_CHALLENGE, ORIGIN, read_basic
from crossmount.proxy.http.errors import RequestRefusedError, unavailable
from crossmount.proxy.http.exchange import Exchange
from crossmount.registry.auth.challenge import Bearer, RealmTrust, judge_realm
from crossmount.registry.auth.flow import read_token
from crossmount.registry.auth.scope import Scope, merge, parse_scopes
from crossmount.registry.credentials.authfiles import Credential
from crossmount.registry.http import transport as http
from crossmount.registry.http.errors import translated
from crossmount.registry.http.location import parse_url, with_query
from crossmount.registry.http.transport import Answer, Body, HttpClient

_REALM_PATH = "/_crossmount/token"
TOKENS_MAX = 50_000
SHARES = 16
"""An account may store one token of so many; all anonymous callers together count as one account."""

_PREFIX = "cmp_"
_FORM_MAX = 64 * 1024
_AUTHORITY = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """A token that the registry's realm issued.

    Attributes:
        token: the token.
        credential: the credential that it was requested with; None for an anonymous token.
        scopes: the scopes that it covers.
        until: when it expires, in the clock's seconds.
        peer: the address that it was given to.
    """

    token: str = field(repr=False)
    credential: Credential | None
    scopes: tuple[Scope, ...]
    until: float
    peer: str


class TokenBroker:
    """Requests tokens from the registry's realm with callers' credentials, and stores them.

    Args:
        registry: the registry's URL. A realm must fit it before credentials are sent there.
        client: sends the requests; has no credentials of its own.
        discover: asks the registry for its Bearer challenge.
        name: the name of the registry in clients' paths; empty if it is the only one.
        anonymous: request tokens without callers' credentials, which are for another registry.
        trusted: hosts of realms that the user trusts by name.
        public_url: the proxy's URL for callers, where it differs from the Host that they send.
        deadline: seconds that a request for a token may take.
        limit: the most tokens that are stored.
        clock: seconds, from any start.
    """

    def __init__(
        self,
        registry: httpx.URL,
        client: HttpClient,
        *,
        discover: Callable[[], Awaitable[Bearer | None]],
        name: str = "",
        anonymous: bool = False,
        trusted: Collection[str] = (),
        public_url: str | None = None,
        deadline: float = 120.0,
        limit: int = TOKENS_MAX,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry = registry
        self._client = client
        self._discover = discover
        self._name = name
        self._anonymous = anonymous
        self._trusted = trusted
        self._public_url = public_url
        self._deadline = deadline
        self._limit = limit
        self._clock = clock
        self._tokens: OrderedDict[str, IssuedToken] = OrderedDict()
        self._names: dict[Credential | None, OrderedDict[str, None]] = {}
        self._realm: Bearer | None = None

    def issued(self, token: str) -> bool:
        """Return whether a token has the form of the names that this broker issues."""
        return token.startswith(_PREFIX)

    def find(self, token: str) -> IssuedToken | None:
        """Return the registry's token behind a name; None if it is unknown or has expired."""
        found = self._tokens.get(token)
        if found is None or found.until <= self._clock():
            self._forget(token)
            return None
        return found

    def set_realm(self, challenge: Bearer) -> None:
        """Store the challenge that names the registry's realm."""
        self._realm = challenge

    def challenge(self, exchange: Exchange, real: Bearer) -> str:
        """Return the challenge for callers: the registry's, with the proxy as its realm."""
        path = f"{_REALM_PATH}/{self._name}" if self._name else _REALM_PATH
        parts = {"realm": self._own_url(exchange) + path, "service": real.service}
        parts |= {"scope": " ".join(map(str, real.scopes)), "error": real.error}
        return "Bearer " + ",".join(f'{name}="{_quoted(value)}"' for name, value in parts.items() if value)

    def wider_challenge(self, exchange: Exchange, scopes: tuple[Scope, ...]) -> str | None:
        """Return the challenge of a token that lacks scopes; None before the registry's own challenge is known."""
        if self._realm is None:
            return None
        return self.challenge(exchange, replace(self._realm, scopes=scopes, error="insufficient_scope"))

    async def answer(self, exchange: Exchange) -> Credential | None:
        """Answer a request for a token: GET (Docker's token authentication) or POST (OAuth2).

        Returns:
            The credential in the request, if the realm has refused it.

        Raises:
            RequestRefusedError: the request is invalid (400, 405), the registry has no tokens (404), or its realm
                does not answer in time (504).
        """
        if exchange.method not in {"GET", "POST"}:
            raise RequestRefusedError(405, "UNSUPPORTED", "ask for a token with GET or POST")
        if self._anonymous:
            if exchange.method == "POST":
                raise RequestRefusedError(
                    405, "UNSUPPORTED", "this registry gets no credentials: use GET without any"
                )
            exchange.headers = [pair for pair in exchange.headers if pair[0] != b"authorization"]
        form = self._without_name(await exchange.read(_FORM_MAX))
        exchange.query = self._without_name(exchange.query)
        credential, scopes = _credential_and_scopes(exchange, form)
        try:
            async with asyncio.timeout(self._deadline):
                answer = await self._request(exchange, form)
        except TimeoutError:
            raise unavailable("the registry's token service does not answer in time", status=504) from None
        if answer.status != 200:
            kinds = [value for name, value in answer.headers.raw if name.lower() == b"content-type"]
            status = answer.status if 400 <= answer.status < 600 else 502
            challenge = [BASIC_CHALLENGE] if status == 401 else []
            await exchange.answer(
                status, [(b"content-type", (*kinds, b"application/json")[0]), *challenge], answer.body
            )
            return credential if status in {401, 403} else None
        await self._issue(exchange, answer, credential, scopes)
        return None

    async def _issue(
        self, exchange: Exchange, answer: Answer, credential: Credential | None, asked: tuple[Scope, ...]
    ) -> None:
        value, lifetime = read_token(answer)
        until = self._clock() + lifetime
        issued = IssuedToken(value, credential, _granted(value, asked), until, exchange.peer)
        name = _PREFIX + secrets.token_urlsafe(32)
        self._store(name, issued)
        document: dict[str, Any] = json.loads(answer.body)
        document |= {"token": name, "access_token": name, "expires_in": max(1, int(lifetime))}
        document.pop("issued_at", None)  # it follows the realm's clock; `expires_in` counts from now
        headers = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
        await exchange.answer(200, headers, json.dumps(document).encode())

    def _store(self, name: str, issued: IssuedToken) -> None:
        """Store a token; it replaces the oldest one of its account if the account's share is used up."""
        own = self._names.setdefault(issued.credential, OrderedDict())
        own[name] = None
        if len(own) > self._limit // SHARES:
            oldest, _ = own.popitem(last=False)
            self._tokens.pop(oldest, None)
        self._tokens[name] = issued
        while len(self._tokens) > self._limit:
            self._forget(next(iter(self._tokens)))

    def _forget(self, name: str) -> None:
        issued = self._tokens.pop(name, None)
        if issued is None:
            return
        own = self._names.get(issued.credential, OrderedDict())
        own.pop(name, None)
        if not own:
            self._names.pop(issued.credential, None)

    def _without_name(self, parameters: bytes) -> bytes:
        """Return a query or a form whose scopes name repositories as the registry itself does.

        Some clients build scopes from the reference that they were given, with the name of the registry in it.
        """
        if not self._name or b"scope=" not in parameters:
            return parameters
        pairs = parse_qsl(parameters.decode("latin-1"), keep_blank_values=True)
        named = f"repository:{self._name}/"
        return urlencode(
            [(key, value.replace(named, "repository:") if key == "scope" else value) for key, value in pairs]
        ).encode()

    async def _request(self, exchange: Exchange, form: bytes) -> Answer:
        real = self._realm or await self._discover()
        if real is None:
            raise RequestRefusedError(404, "UNSUPPORTED", "this registry gives no tokens")
        self._realm = real
        authorization = exchange.header(b"authorization")
        url = self._checked_realm(real, anonymous=authorization is None and exchange.method == "GET")
        if exchange.query:
            url = with_query(url, exchange.query.decode("ascii"))
        headers = {"Accept": "application/json", "User-Agent": exchange.header(b"user-agent") or "crossmount"}
        if authorization is not None:
            headers["Authorization"] = authorization
        if exchange.method == "POST":
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        body = Body.of(form) if exchange.method == "POST" else None
        with translated(exchange.method, url):
            return await http.exchange(self._client, exchange.method, url, headers=headers, body=body)

    def _checked_realm(self, real: Bearer, *, anonymous: bool) -> httpx.URL:
        url = parse_url(real.realm)
        if url is None:
            raise InvalidAnswerError(f"{self._registry.host}: its realm is no URL")
        verdict = judge_realm(url, registry=self._registry, trusted=self._trusted)
        if verdict is RealmTrust.NOTHING or (verdict is RealmTrust.ANONYMOUS and not anonymous):
            raise InvalidAnswerError(
                f"{self._registry.host}: it wants credentials sent to {url.host}, not of its own domain or not "
                "over https; they were not sent: if that is right, trust the realm by name"
            )
        return url

    def _own_url(self, exchange: Exchange) -> str:
        if self._public_url is not None:
            return self._public_url
        host = exchange.header(b"host") or ""
        if not _AUTHORITY.fullmatch(host):
            raise RequestRefusedError(400, "UNSUPPORTED", "the Host header is not a valid host")
        return f"{exchange.scheme}://{host}"


def _credential_and_scopes(exchange: Exchange, form: bytes) -> tuple[Credential | None, tuple[Scope, ...]]:
    """Return the credential in a request for a token, and the requested scopes."""
    text = form if exchange.method == "POST" else exchange.query
    given = parse_qs(text.decode("latin-1"))
    asked = merge(*(parse_scopes(scope) for scope in given.get("scope", [])))
    if exchange.method == "POST":
        return _from_form({name: values[0] for name, values in given.items()}), asked
    scheme, _, value = (exchange.header(b"authorization") or "").partition(" ")
    return (read_basic(value.strip()) if scheme.lower() == "basic" else None), asked


def _from_form(form: dict[str, str]) -> Credential | None:
    if form.get("grant_type") == "password" and "username" in form:
        return Credential(form["username"], form.get("password", ""), origin=ORIGIN)
    if form.get("grant_type") == "refresh_token" and "refresh_token" in form:
        return Credential("", form["refresh_token"], kind="identity", origin=ORIGIN)
    return None


def _granted(token: str, asked: tuple[Scope, ...]) -> tuple[Scope, ...]:
    """Return the scopes of a token: those in its claims if it is a JWT, else the requested ones.

    The token comes from the realm itself, so its signature is not checked.
    """
    try:
        payload = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        access = claims["access"]
        return tuple(
            Scope(str(item["type"]), str(item["name"]), tuple(map(str, item["actions"] or ()))) for item in access
        )
    except (IndexError, KeyError, TypeError, ValueError, RecursionError):
        return asked


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
