"""What a request to one registry carries in Authorization: learnt from its challenges, asked for once."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field

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

_KNOWN_SECONDS = 300.0
"""How long credentials are not looked up anew; what a helper gives may live for minutes only."""

_ANEW_SECONDS = 10.0
"""How old they must be to be looked up anew when they were refused."""

Fetch = Callable[[TokenRequest], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class Authorization:
    """What authorises one request.

    Attributes:
        header: the value of Authorization, or None for a request without.
        credential: whose it is, None for an anonymous visit.
        token: the token in the header, if it is one.
    """

    header: str | None = field(default=None, repr=False)
    credential: Credential | None = None
    token: Token | None = None

    @property
    def sent_with(self) -> str:
        """Whose it is, in words that may be shown."""
        return "no credentials" if self.credential is None else f"credentials from {self.credential.origin}"


ANONYMOUS = Authorization()


class Authorizer:
    """Authorises requests to one registry.

    Args:
        registry: the registry, normalised: what credentials are looked up by.
        root: its address, which a realm is judged against.
        credentials: where credentials come from; asked only once the registry has asked for some.
        trusted: realms' hosts that the user trusts by name.
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
        fetch: Fetch,
        clock: Callable[[], float],
    ) -> None:
        self._registry = registry
        self._root = root
        self._credentials = credentials
        self._trusted = trusted
        self._fetch = fetch
        self._tokens = TokenCache(clock=clock)
        self._clock = clock
        self._known: dict[str, tuple[Credential | None, float]] = {}
        self._looking = asyncio.Lock()
        self._coming: dict[str, tuple[Scope, ...]] = {}
        self._challenge: Bearer | Basic | None = None

    @property
    def challenge(self) -> Bearer | Basic | None:
        """How the registry wants to be authorised, as far as it has said."""
        return self._challenge

    async def aclose(self) -> None:
        """Give up what is under way."""
        await self._tokens.aclose()

    def learn(self, headers: Collection[str]) -> Bearer | Basic | None:
        """Read an answer's WWW-Authenticate headers, and remember what they ask for."""
        challenge = choose(headers)
        if challenge is not None:
            self._challenge = challenge
        return challenge

    async def credential_origin(self, name: str) -> str | None:
        """Return where the credentials for a repository come from, in words that may be shown."""
        credential = await self._credential(name)
        return None if credential is None else credential.origin

    def expect(self, name: str, sources: tuple[Scope, ...]) -> None:
        """Let the next token for pushing to repository `name` cover its coming sources too."""
        self._coming[name] = sources

    async def authorize(self, name: str, wanted: Wanted) -> Authorization:
        """Return what authorises a request, as far as the registry's ways are known yet.

        Args:
            name: the repository whose credentials count, "" for the registry as such.
            wanted: what the request wants to be allowed.

        Raises:
            CredentialsError: credentials cannot be used, or would go to a stranger.
            RegistryError: no token was to be had.
        """
        if self._challenge is None:
            return ANONYMOUS
        credential = await self._credential(name)
        if isinstance(self._challenge, Basic):
            return ANONYMOUS if credential is None else Authorization(_header(credential), credential)
        return await self._with_token(self._challenge, self._widened(wanted), credential)

    async def reauthorize(
        self, name: str, wanted: Wanted, used: Authorization, headers: Collection[str]
    ) -> Authorization | None:
        """Return what to try after a 401, or None if there is nothing better than what was used.

        Args:
            name: the repository whose credentials count.
            wanted: what the request wants to be allowed.
            used: what authorised it in vain.
            headers: the answer's WWW-Authenticate headers.
        """
        challenge = self.learn(headers)
        if challenge is None:
            return None
        if isinstance(challenge, Basic):
            return await self._other_password(name, used)
        wanted = self._widened(wanted).challenged_for(challenge.scopes)
        credential = await self._credential(name)
        if used.token is not None:
            if challenge.error == "insufficient_scope" and used.token.satisfies(wanted):
                return None  # it was asked for all that, and a new one would allow no more
            revoked = challenge.error != "insufficient_scope"  # hardly this one alone
            self._tokens.drop((challenge, credential), used.token.value, with_older=revoked)
        return await self._with_token(challenge, wanted, credential)

    async def _other_password(self, name: str, used: Authorization) -> Authorization | None:
        """Return the credentials if they were not sent yet, or have changed since (a helper's may)."""
        credential = await self._credential(name)
        if credential is not None and _header(credential) == used.header:
            credential = await self._credential(name, older_than=_ANEW_SECONDS)
        if credential is None or _header(credential) == used.header:
            return None
        return Authorization(_header(credential), credential)

    async def _with_token(self, challenge: Bearer, wanted: Wanted, credential: Credential | None) -> Authorization:
        async def fetch() -> Token:
            self._check_realm(challenge, credential)
            return await self._drive(challenge, wanted, credential)

        token = await self._tokens.get((challenge, credential), wanted, fetch)
        return Authorization(f"Bearer {token.value}", credential, token)

    async def _drive(self, challenge: Bearer, wanted: Wanted, credential: Credential | None) -> Token:
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
        verdict = judge_realm(realm, registry=self._root, trusted=self._trusted)
        if verdict is RealmTrust.NOTHING:
            raise InvalidAnswerError(
                f"{self._registry}: its token is to be had over plain http from {realm.host}: https is never left"
            )
        sends = credential is not None and credential.kind != "registry"
        if verdict is RealmTrust.ANONYMOUS and sends:
            raise CredentialsError(
                f"{self._registry}: it wants its credentials sent to {realm.host}, which is not of its domain; "
                f"they were not sent: if that is right, trust the realm {realm.host} by name"
            )

    async def _credential(self, name: str, *, older_than: float = _KNOWN_SECONDS) -> Credential | None:
        """Look up the credential for a repository, unless that was done less than `older_than` seconds ago."""
        async with self._looking:  # one helper at a time, however many requests wait for what it says
            found, when = self._known.get(name, (None, -math.inf))
            if self._clock() - when >= older_than:
                found = await self._credentials.find(self._registry, name)
                self._known[name] = found, self._clock()
            return found

    def _widened(self, wanted: Wanted) -> Wanted:
        """Add what was announced: a token for one repository then serves all that comes for it."""
        names = {scope.name for scope in wanted.needed if scope.kind == "repository"}
        for dest, sources in self._coming.items():
            if dest in names or not names.isdisjoint(source.name for source in sources):
                return wanted | Wanted((Scope("repository", dest, ("pull", "push")),), sources)
        return wanted


def _header(credential: Credential) -> str:
    """Return what a registry that wants a password is given."""
    return f"Bearer {credential.secret}" if credential.kind == "registry" else basic(credential)
