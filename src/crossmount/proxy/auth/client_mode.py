"""`--auth client`: the caller's own rights, never more.

Basic is sent on as it is. Tokens are the proxy's own: see `tokens`. What the proxy does for a caller, it does
with the same credentials, at the registry and at its realm alone.
"""

import hashlib
import hmac
import secrets
from dataclasses import replace
from typing import Protocol

from crossmount.oci import Repository
from crossmount.proxy.auth.basic import read_basic
from crossmount.proxy.auth.callers import Agents, Caller
from crossmount.proxy.auth.tokens import TokenBroker
from crossmount.proxy.http.exchange import Exchange
from crossmount.proxy.http.headers import HeaderPairs
from crossmount.registry.auth.challenge import Bearer, choose
from crossmount.registry.auth.scope import Scope
from crossmount.registry.credentials.authfiles import Credential
from crossmount.registry.credentials.lookup import CredentialSource, GivenCredentials, NoCredentials

_ANONYMOUS = "anonymous"


class Authenticator(Protocol):
    """Tells callers apart."""

    async def authenticate(self, exchange: Exchange) -> Caller:
        """Return who sent a request.

        Raises:
            RefusedError: nobody who may.
        """
        ...

    def own_caller(self) -> Caller | None:
        """Return the caller that the proxy is itself; None where it has no credentials."""
        ...

    async def answer_token_request(self, exchange: Exchange) -> None:
        """Answer a request for a token."""
        ...

    def rewritten_challenges(self, exchange: Exchange, headers: HeaderPairs) -> HeaderPairs:
        """Return an answer's headers with its challenges turned to the proxy."""
        ...


class ClientAuthenticator:
    """Each caller acts with their own credentials.

    Args:
        registry: any repository of the registry behind the proxy.
        agents: who acts for callers.
        broker: gives tokens.
        key: what callers' keys are made with; new for each process, so that they tell nothing.
    """

    def __init__(
        self, registry: Repository, *, agents: Agents, broker: TokenBroker, key: bytes | None = None
    ) -> None:
        self._registry = registry.registry
        self._agents = agents
        self._broker = broker
        self._key = key or secrets.token_bytes(32)

    async def authenticate(self, exchange: Exchange) -> Caller:
        """See `Authenticator.admit`; everybody is let in, the registry judges."""
        header = exchange.header(b"authorization")
        if header is None:
            return self._caller(None, None)
        scheme, _, value = header.partition(" ")
        if scheme.lower() == "basic":
            credential = read_basic(value.strip())
            return self._opaque(header) if credential is None else self._caller(credential, header)
        if scheme.lower() != "bearer":
            return self._opaque(header)
        if not self._broker.is_ours(value.strip()):
            return self._opaque(header)
        grant = self._broker.find(value.strip())
        if grant is None:
            return self._caller(None, None, acts=False)  # the registry's own challenge then asks for a new one
        return self._caller(grant.credential, f"Bearer {grant.token}", scopes_of=grant.scopes)

    def own_caller(self) -> None:
        """See `Authenticator.own`: there is none."""

    async def answer_token_request(self, exchange: Exchange) -> None:
        """See `Authenticator.token_page`."""
        await self._broker.answer(exchange)

    def rewritten_challenges(self, exchange: Exchange, headers: HeaderPairs) -> HeaderPairs:
        """See `Authenticator.challenges`: a realm becomes the proxy's own."""
        offered = [value.decode("latin-1") for name, value in headers if name == b"www-authenticate"]
        challenge = choose(offered)
        if not isinstance(challenge, Bearer):
            return headers
        self._broker.learn(challenge)
        challenge = replace(challenge, scopes=challenge.scopes or exchange.scopes)
        turned = self._broker.challenge(exchange, challenge).encode("latin-1")
        return [pair for pair in headers if pair[0] != b"www-authenticate"] + [(b"www-authenticate", turned)]

    def _caller(
        self,
        credential: Credential | None,
        authorization: str | None,
        *,
        scopes_of: tuple[Scope, ...] | None = None,
        acts: bool = True,
    ) -> Caller:
        key = self._key_of(credential)

        def source() -> CredentialSource:
            return NoCredentials() if credential is None else GivenCredentials(self._registry, credential)

        return Caller(key, authorization, self._agents.of(key, source) if acts else None, scopes_of)

    def _opaque(self, header: str) -> Caller:
        """Return a caller whose credentials the proxy can't use for more than this request."""
        return Caller(self._hashed(f"opaque {header}"), header)

    def _key_of(self, credential: Credential | None) -> str:
        if credential is None:
            return _ANONYMOUS
        return self._hashed(f"{credential.kind}\0{credential.username}\0{credential.secret}")

    def _hashed(self, text: str) -> str:
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()
