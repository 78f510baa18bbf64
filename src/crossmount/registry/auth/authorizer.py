"""What authorizes the requests to one registry: the whole flow, from top to bottom.

1. `authorize`, before a request: nothing, until the registry has sent a challenge; then the credentials (Basic),
   or a token from the cache or the realm (Bearer).
2. `reauthorize`, after a 401: the challenge is read and remembered, the refused token is dropped, and step 1 is
   repeated if it can have another result.
3. `_token_for`: one token per set of scopes, however many requests wait for it (`tokens`).
4. `_fetch_token`: the realm is judged before any credential is sent to it (`realm`), then `flow` says which
   requests to send.

Credentials are looked up by `_credential`, and only after a challenge.

Housekeeping (to cancel a session, to ask why a source failed) may want scopes that this account does not have. It
uses the tokens at hand, and fetches others `apart`, so that their refusal concerns no other request.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from functools import partial

import httpx

from crossmount.errors import CredentialsError, InvalidAnswerError
from crossmount.registry.auth.challenge import Basic, Bearer, choose
from crossmount.registry.auth.flow import Token, TokenRequest, basic, token_flow
from crossmount.registry.auth.realm import RealmTrust, judge_realm
from crossmount.registry.auth.scope import Scope, Wanted
from crossmount.registry.auth.tokens import TokenCache
from crossmount.registry.credentials.authfiles import Credential
from crossmount.registry.credentials.lookup import CredentialSource
from crossmount.registry.http.location import parse_url
from crossmount.registry.http.transport import Answer

_CREDENTIAL_SECONDS = 300.0
"""How long a credential is used before it is looked up again; a helper's may live for minutes only."""

_REFUSED_SECONDS = 10.0
"""The same for a credential that was refused."""

FetchToken = Callable[[TokenRequest], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class Authorization:
    """What authorizes one request.

    Attributes:
        header: the value of Authorization, or None for a request without.
        credential: the credential behind it, None for an anonymous request.
        token: the token in the header, if it is one.
    """

    header: str | None = field(default=None, repr=False)
    credential: Credential | None = None
    token: Token | None = None

    @property
    def sent_with(self) -> str:
        """The origin of the credential, for messages."""
        return "no credentials" if self.credential is None else f"credentials from {self.credential.origin}"


ANONYMOUS = Authorization()


class Authorizer:
    """Authorizes the requests to one registry.

    Args:
        registry: the registry, normalised: the key for looking up credentials.
        root: its `/v2/`; a realm is judged against it.
        credentials: the source of credentials; asked only after the registry's first challenge.
        trusted: hosts of realms that the user trusts.
        fetch: sends a request for a token.
        clock: seconds, from any start.
    """

    def __init__(
        self,
        registry: str,
        root: httpx.URL,
        *,
        credentials: CredentialSource,
        trusted: Collection[str],
        fetch: FetchToken,
        clock: Callable[[], float],
    ) -> None:
        self._registry = registry
        self._root = root
        self._credentials = credentials
        self._trusted = trusted
        self._fetch = fetch
        self._tokens = TokenCache(clock=clock)
        self._apart = TokenCache(clock=clock)
        self._clock = clock
        self._found: dict[str, tuple[Credential | None, float]] = {}
        self._lookup = asyncio.Lock()
        self._announced: dict[str, tuple[Scope, ...]] = {}
        self._challenge: Bearer | Basic | None = None

    @property
    def challenge(self) -> Bearer | Basic | None:
        """The registry's last challenge, or None if it has sent none."""
        return self._challenge

    async def authorize(self, name: str, wanted: Wanted, *, apart: bool = False) -> Authorization:
        """Return what authorizes a request, as far as the registry's challenge is known.

        Args:
            name: the repository whose credentials are used, "" for the registry itself.
            wanted: the scopes that the request needs.
            apart: the request is housekeeping: a new token for it is not shared.

        Raises:
            CredentialsError: credentials cannot be used, or would go to an untrusted host.
            RegistryError: no token was given.
        """
        if self._challenge is None:
            return ANONYMOUS
        credential = await self._credential(name)
        if isinstance(self._challenge, Basic):
            return ANONYMOUS if credential is None else Authorization(_header(credential), credential)
        if apart:
            token = self._tokens.find((self._challenge, credential), wanted)
            return await self._token_apart(self._challenge, wanted, credential, token)
        return await self._token_for(self._challenge, self._with_announced(wanted), credential)

    async def reauthorize(
        self,
        name: str,
        wanted: Wanted,
        used: Authorization,
        headers: Collection[str],
        *,
        apart: bool = False,
    ) -> Authorization | None:
        """Return what to try after a 401, or None if there is nothing else to try.

        Args:
            name: the repository whose credentials are used.
            wanted: the scopes that the request needs.
            used: the authorization that was refused.
            headers: the answer's WWW-Authenticate headers.
            apart: the request is housekeeping: no token is dropped for it, and a new one is not shared.
        """
        if apart and self._challenge is not None:
            return await self._reauthorize_apart(name, wanted, used, headers)
        challenge = self.learn(headers)
        if challenge is None:
            return None
        credential = await self._credential(name)
        if isinstance(challenge, Basic):
            if credential is not None and _header(credential) == used.header:
                # a helper's may have changed
                credential = await self._credential(name, older_than=_REFUSED_SECONDS)
            if credential is None or _header(credential) == used.header:
                return None
            return Authorization(_header(credential), credential)
        wanted = self._with_announced(wanted).challenged_for(challenge.scopes)
        if used.token is not None:
            if challenge.error == "insufficient_scope" and used.token.satisfies(wanted):
                return None  # it was requested with all these scopes: a new one would allow no more
            revoked = challenge.error != "insufficient_scope"  # then the older ones are probably revoked too
            self._tokens.drop((challenge, credential), used.token.value, with_older=revoked)
        return await self._token_for(challenge, wanted, credential)

    async def _reauthorize_apart(
        self, name: str, wanted: Wanted, used: Authorization, headers: Collection[str]
    ) -> Authorization | None:
        challenge = choose(headers)
        if not isinstance(challenge, Bearer):
            return None
        credential = await self._credential(name)
        if used.token is not None:
            self._apart.drop((challenge, credential), used.token.value)
        return await self._token_apart(challenge, wanted.challenged_for(challenge.scopes), credential, None)

    async def _token_apart(
        self, challenge: Bearer, wanted: Wanted, credential: Credential | None, token: Token | None
    ) -> Authorization:
        """Authorize housekeeping: with `token` if there is one, else with one that no other request uses."""
        if token is None:
            owner, fetch = (challenge, credential), partial(self._fetch_token, challenge, wanted, credential)
            token = await self._apart.get(owner, wanted, fetch)
        return Authorization(f"Bearer {token.value}", credential, token)

    def learn(self, headers: Collection[str]) -> Bearer | Basic | None:
        """Read and remember the challenge in an answer's WWW-Authenticate headers; None if there is none."""
        challenge = choose(headers)
        if challenge is not None:
            self._challenge = challenge
        return challenge

    async def _token_for(self, challenge: Bearer, wanted: Wanted, credential: Credential | None) -> Authorization:
        async def fetch() -> Token:
            return await self._fetch_token(challenge, wanted, credential)

        token = await self._tokens.get((challenge, credential), wanted, fetch)
        return Authorization(f"Bearer {token.value}", credential, token)

    async def _fetch_token(self, challenge: Bearer, wanted: Wanted, credential: Credential | None) -> Token:
        self._check_realm(challenge, credential)
        flow = token_flow(challenge, wanted, credential)
        try:
            request = next(flow)
            while True:
                request = flow.send(await self._fetch(request))
        except StopIteration as end:
            token: Token = end.value
            return token

    def _check_realm(self, challenge: Bearer, credential: Credential | None) -> None:
        realm = parse_url(challenge.realm)
        if realm is None:
            raise InvalidAnswerError(f"{self._registry}: its WWW-Authenticate names a realm that is no URL")
        trust = judge_realm(realm, registry=self._root, trusted=self._trusted)
        if trust is RealmTrust.NOTHING:
            raise InvalidAnswerError(
                f"{self._registry}: its token is to be had over plain http from {realm.host}: https is never left"
            )
        sends = credential is not None and credential.kind != "registry"
        if trust is RealmTrust.ANONYMOUS and sends:
            raise CredentialsError(
                f"{self._registry}: it wants its credentials sent to {realm.host}, which is not of its domain; "
                f"they were not sent: if that is right, trust the realm {realm.host} by name"
            )

    async def _credential(self, name: str, *, older_than: float = _CREDENTIAL_SECONDS) -> Credential | None:
        """Return the credential for a repository; it is looked up again if it is `older_than` seconds old."""
        async with self._lookup:  # one helper runs at a time, and all waiting requests use its result
            found, when = self._found.get(name, (None, -math.inf))
            if self._clock() - when >= older_than:
                found = await self._credentials.find(self._registry, name)
                self._found[name] = found, self._clock()
            return found

    async def credential_origin(self, name: str) -> str | None:
        """Return the origin of a repository's credential, for messages."""
        credential = await self._credential(name)
        return None if credential is None else credential.origin

    def announce(self, name: str, sources: tuple[Scope, ...]) -> None:
        """Make the next token for a push to repository `name` cover the sources of its mounts too."""
        self._announced[name] = sources

    def _with_announced(self, wanted: Wanted) -> Wanted:
        """Add the announced sources: one token for a repository then covers all its mounts."""
        names = {scope.name for scope in wanted.needed if scope.kind == "repository"}
        for dest, sources in self._announced.items():
            if dest in names or not names.isdisjoint(source.name for source in sources):
                return wanted | Wanted((Scope("repository", dest, ("pull", "push")),), sources)
        return wanted

    async def aclose(self) -> None:
        """Cancel the requests for tokens."""
        await self._tokens.aclose()
        await self._apart.aclose()


def _header(credential: Credential) -> str:
    """Return the Authorization header with which a registry gets the credential itself."""
    return f"Bearer {credential.secret}" if credential.kind == "registry" else basic(credential)
