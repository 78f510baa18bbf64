"""`--auth client`: each caller acts with its own rights, never more.

Basic credentials are forwarded unchanged. Bearer tokens are issued by the proxy (`TokenBroker`). When the proxy
acts for a caller, it uses the same credentials, and sends them to the registry and its realm alone.
"""

import hashlib
import hmac
import secrets
from collections.abc import Callable
from dataclasses import replace

from crossmount._expiring import ExpiringSet
from crossmount.oci import Repository
from crossmount.proxy.auth.admission import ADMITTED_MAX, ADMITTED_SECONDS, Admission
from crossmount.proxy.auth.callers import ORIGIN, Agents, Caller, read_basic
from crossmount.proxy.auth.own_names import OwnNames
from crossmount.proxy.auth.tokens import IssuedToken, TokenBroker
from crossmount.proxy.http.exchange import Exchange
from crossmount.proxy.http.headers import HeaderPairs
from crossmount.proxy.settings import MountRights
from crossmount.registry.auth.challenge import Bearer, choose
from crossmount.registry.auth.scope import Scope
from crossmount.registry.credentials.authfiles import Credential
from crossmount.registry.credentials.given import GivenCredentials, NoCredentials
from crossmount.registry.credentials.lookup import CredentialSource

_ANONYMOUS = "anonymous"


class ClientAuthenticator:
    """Identifies callers by their own credentials, which the registry checks.

    Args:
        registry: the registry behind the proxy; any of its repositories.
        agents: the agents that act for callers.
        broker: issues tokens.
        mount_rights: `account`: a token stands for the account that obtained it, at the address that it was given
            to. `token`: it stands for its own scopes.
        anonymous: callers' credentials are for another registry, and are not used for this one.
        names: the names that the proxy's page is called by; None for every name.
        key: the HMAC key of callers' keys; random for each process, so that a logged key reveals nothing.
        admissions: remembers the callers that the registry has let in; refused ones take no room there.
    """

    def __init__(
        self,
        registry: Repository,
        *,
        agents: Agents,
        broker: TokenBroker,
        mount_rights: MountRights = "account",
        anonymous: bool = False,
        names: OwnNames | None = None,
        key: bytes | None = None,
        admissions: ExpiringSet[str] | None = None,
    ) -> None:
        self._registry = registry.registry
        self._agents = agents
        self._broker = broker
        self._mount_rights = mount_rights
        self._anonymous = anonymous
        self._names = names or OwnNames()
        self._key = key or secrets.token_bytes(32)
        self._admissions = ExpiringSet(ADMITTED_SECONDS, limit=ADMITTED_MAX) if admissions is None else admissions
        self._agents.get(_ANONYMOUS, NoCredentials)
        self._agents.admit(_ANONYMOUS)

    async def authenticate(self, exchange: Exchange) -> Caller:
        """Return the caller of a request; nobody is refused here, since the registry checks every request."""
        header = exchange.header(b"authorization")
        if self._anonymous and header is not None and not self._broker.issued(header.partition(" ")[2].strip()):
            header = None
        if header is None:
            return Caller(_ANONYMOUS, None, self._agents.get(_ANONYMOUS, NoCredentials), peer=exchange.peer)
        scheme, _, value = header.partition(" ")
        if scheme.lower() == "basic":
            credential = read_basic(value.strip())
            return self._opaque(header) if credential is None else self._account(credential, header)
        if scheme.lower() != "bearer" or not self._broker.issued(value.strip()):
            return self._opaque(header)
        issued = self._broker.find(value.strip())
        if issued is None:  # without an Authorization the registry sends a challenge, and the client asks again
            return Caller(_ANONYMOUS, peer=exchange.peer)
        return self._token_holder(issued, exchange.peer)

    def own_caller(self) -> None:
        """Return None: the proxy has no credentials of its own."""

    async def answer_token_request(self, exchange: Exchange) -> None:
        """Answer a request for a token with one that the broker issues."""
        credential = await self._broker.answer(exchange)
        if credential is not None:  # the token service has refused it
            self._agents.drop(self._key_of(credential))

    async def permit_metrics(self, exchange: Exchange) -> None:
        """Show the metrics to everybody: this proxy knows no callers of its own."""

    async def permit_page(self, exchange: Exchange, *, names: bool) -> None:
        """Show a page to everybody who reaches the proxy. Names are shown because its operator has decided so.

        Raises:
            RequestRefusedError: the request names another host, or a web page of another site sent it.
        """
        if names:
            self._names.check(exchange, is_page=True)

    def rewritten_challenges(self, exchange: Exchange, headers: HeaderPairs) -> HeaderPairs:
        """Return an answer's headers with a Bearer challenge that names the proxy's realm, not the registry's."""
        offered = [value.decode("latin-1") for name, value in headers if name == b"www-authenticate"]
        challenge = choose(offered)
        if not isinstance(challenge, Bearer):
            return [pair for pair in headers if not _needs_one_connection(*pair)]
        self._broker.set_realm(challenge)
        challenge = replace(challenge, scopes=challenge.scopes or exchange.scopes)
        rewritten = self._broker.challenge(exchange, challenge).encode("latin-1")
        return [pair for pair in headers if pair[0] != b"www-authenticate"] + [(b"www-authenticate", rewritten)]

    def _account(
        self, credential: Credential | None, header: str, scopes: tuple[Scope, ...] | None = None
    ) -> Caller:
        key = self._key_of(credential)
        return Caller(
            key,
            header,
            self._agents.get(key, self._source(credential)),
            scopes,
            admission=self._admission(key, header),
        )

    def _token_holder(self, issued: IssuedToken, peer: str) -> Caller:
        header = f"Bearer {issued.token}"
        if self._mount_rights == "account" and peer == issued.peer:
            return self._account(issued.credential, header, issued.scopes)
        key, own = self._key_of(issued.credential), self._hashed(f"token {issued.token}")
        token = Credential("", issued.token, kind="registry", origin=ORIGIN)
        return Caller(
            key,
            header,
            self._agents.get(own, self._source(token)),
            issued.scopes,
            admission=self._admission(own, header),
            account=self._agents.get(key, self._source(issued.credential)),
            widen=self._broker.wider_challenge if self._mount_rights == "token" else None,
        )

    def _admission(self, key: str, header: str) -> Admission:
        return Admission(
            self._admissions,
            self._hashed(f"admission {header}"),
            on_admitted=lambda: self._agents.admit(key),
            on_refused=lambda: self._agents.drop(key),
        )

    def _source(self, credential: Credential | None) -> Callable[[], CredentialSource]:
        def source() -> CredentialSource:
            return NoCredentials() if credential is None else GivenCredentials(self._registry, credential)

        return source

    def _opaque(self, header: str) -> Caller:
        """Return a caller whose credentials the proxy can only forward."""
        return Caller(self._hashed(f"opaque {header}"), header)

    def _key_of(self, credential: Credential | None) -> str:
        if credential is None:
            return _ANONYMOUS
        return self._hashed(f"{credential.kind}\0{credential.username}\0{credential.secret}")

    def _hashed(self, text: str) -> str:
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()


def _needs_one_connection(name: bytes, value: bytes) -> bool:
    """Return whether a header offers NTLM, whose several requests need one connection of the client's own."""
    return name == b"www-authenticate" and value.strip()[:4].lower() == b"ntlm"
