"""`--auth client`: each caller acts with its own rights, never more.

Basic credentials are forwarded unchanged. Bearer tokens are issued by the proxy (`TokenBroker`). When the proxy
acts for a caller, it uses the same credentials, and sends them to the registry and its realm alone.
"""

import hashlib
import hmac
import secrets
from dataclasses import replace

from crossmount.oci import Repository
from crossmount.proxy.auth.callers import Agents, Caller, read_basic
from crossmount.proxy.auth.tokens import TokenBroker
from crossmount.proxy.http.exchange import Exchange
from crossmount.proxy.http.headers import HeaderPairs
from crossmount.registry.auth.challenge import Bearer, choose
from crossmount.registry.auth.scope import Scope
from crossmount.registry.credentials.authfiles import Credential
from crossmount.registry.credentials.lookup import CredentialSource, GivenCredentials, NoCredentials

_ANONYMOUS = "anonymous"


class ClientAuthenticator:
    """Identifies callers by their own credentials, which the registry checks.

    Args:
        registry: any repository of the registry behind the proxy.
        agents: the agents that act for callers.
        broker: issues tokens.
        key: the HMAC key of callers' keys; random for each process, so that a logged key reveals nothing.
    """

    def __init__(
        self, registry: Repository, *, agents: Agents, broker: TokenBroker, key: bytes | None = None
    ) -> None:
        self._registry = registry.registry
        self._agents = agents
        self._broker = broker
        self._key = key or secrets.token_bytes(32)

    async def authenticate(self, exchange: Exchange) -> Caller:
        """Return the caller of a request; nobody is refused here, since the registry checks every request."""
        header = exchange.header(b"authorization")
        if header is None:
            return self._caller(None, None)
        scheme, _, value = header.partition(" ")
        if scheme.lower() == "basic":
            credential = read_basic(value.strip())
            return self._opaque(header) if credential is None else self._caller(credential, header)
        if scheme.lower() != "bearer":
            return self._opaque(header)
        if not self._broker.issued(value.strip()):
            return self._opaque(header)
        issued = self._broker.find(value.strip())
        if issued is None:  # without an Authorization the registry answers a challenge, and the client asks anew
            return self._caller(None, None, has_agent=False)
        return self._caller(issued.credential, f"Bearer {issued.token}", scopes_of=issued.scopes)

    def own_caller(self) -> None:
        """Return None: the proxy has no credentials of its own."""

    async def answer_token_request(self, exchange: Exchange) -> None:
        """Answer a request for a token with one that the broker issues."""
        await self._broker.answer(exchange)

    async def permit_metrics(self, exchange: Exchange) -> None:
        """Show the metrics to everybody: this proxy knows no callers of its own."""

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

    def _caller(
        self,
        credential: Credential | None,
        authorization: str | None,
        *,
        scopes_of: tuple[Scope, ...] | None = None,
        has_agent: bool = True,
    ) -> Caller:
        key = self._key_of(credential)

        def source() -> CredentialSource:
            return NoCredentials() if credential is None else GivenCredentials(self._registry, credential)

        return Caller(key, authorization, self._agents.get(key, source) if has_agent else None, scopes_of)

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
