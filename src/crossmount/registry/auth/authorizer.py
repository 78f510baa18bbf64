"""What authorizes the requests to one registry: the whole flow, from top to bottom.

1. `authorize`, before a request: nothing, until the registry has sent a challenge; then the credentials (Basic),
   or a token from the cache or the realm (Bearer).
2. `reauthorize`, after a 401: the challenge is read and remembered, the refused token is dropped, and step 1 is
   repeated if it can have another result.
3. `_token_for`: one token per set of scopes, however many requests wait for it (`tokens`). A token for a mount
   covers other sources of the same push too (`mount_scopes`).
4. `TokenFetcher.fetch`: the realm is judged before any credential is sent to it (`challenge`), then `flow` says
   which requests to send. If the realm refuses sources, `halving` says how to find out which.

Credentials are looked up by `_credential`, and only after a challenge.

Housekeeping (to cancel a session, to ask why a source failed) may want scopes that this account does not have. It
uses the tokens at hand, and fetches others into a cache of its own, so that their refusal concerns no other
request.
"""

import asyncio
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import cached_property, partial

import httpx

from crossmount.registry.auth.challenge import Basic, Bearer, choose
from crossmount.registry.auth.fetcher import SendTokenRequest, TokenFetcher
from crossmount.registry.auth.flow import ANONYMOUS, Authorization, Token, basic
from crossmount.registry.auth.mount_scopes import Group, MountScopes
from crossmount.registry.auth.scope import Scope, Wanted, covers
from crossmount.registry.credentials.authfiles import NO_CREDENTIALS, Credential, account_digest
from crossmount.registry.credentials.lookup import CredentialsAtHand, CredentialSource, where_looked

_CREDENTIAL_SECONDS = 300.0
"""How long a credential is used before it is looked up again; a helper's may live for minutes only."""

_REFUSED_SECONDS = 10.0
"""The same for a credential that was refused."""

_CREATED = 201


class Authorizer:
    """Authorizes the requests to one registry.

    Args:
        registry: the registry, normalised: the key for looking up credentials.
        root: its `/v2/`; a realm is judged against it.
        credentials: the source of credentials; asked only after the registry's first challenge.
        trusted: hosts of realms that the user trusts.
        fetch: sends a request for a token.
        clock: seconds, from any start.

    Attributes:
        mounts: the sources of mounts, and which of them were refused.
    """

    def __init__(
        self,
        registry: str,
        root: httpx.URL,
        *,
        credentials: CredentialSource,
        trusted: Collection[str],
        fetch: SendTokenRequest,
        clock: Callable[[], float],
    ) -> None:
        self._registry = registry
        self._root = root
        self._credentials = credentials
        self._trusted = trusted
        self._send = fetch
        self._clock = clock
        self.mounts = MountScopes(clock)
        self._found: dict[str, tuple[Credential | None, float]] = {}
        self._lookup = asyncio.Lock()
        self._account: tuple[Credential | None, str] | None = None  # its digest takes some ms of a thread
        self._challenge: Bearer | Basic | None = None

    @cached_property
    def _fetcher(self) -> TokenFetcher:
        """What gets and keeps tokens; made for the first challenge that asks for one."""
        return TokenFetcher(
            self._registry,
            self._root,
            trusted=self._trusted,
            send=self._send,
            mounts=self.mounts,
            looked=partial(where_looked, self._credentials),
            clock=self._clock,
        )

    @property
    def challenge(self) -> Bearer | Basic | None:
        """The registry's last challenge, or None if it has sent none."""
        return self._challenge

    def described(self, used: Authorization) -> str:
        """Return the origin of a request's credential for a message; without one, where it was looked for."""
        if used.credential is None:
            return f"{NO_CREDENTIALS}{where_looked(self._credentials)}"
        return f"credentials from {used.credential.origin}"

    async def authorize(self, name: str, wanted: Wanted, *, housekeeping: bool = False) -> Authorization:
        """Return what authorizes a request, as far as the registry's challenge is known.

        Args:
            name: the repository whose credentials are used, "" for the registry itself.
            wanted: the scopes that the request needs.
            housekeeping: the request is housekeeping: a new token for it is not shared.

        Raises:
            CredentialsError: credentials cannot be used, or would go to an untrusted host.
            RegistryError: no token was given.
        """
        if self._challenge is None:
            return ANONYMOUS
        credential = await self._credential(name)
        if isinstance(self._challenge, Basic):
            return ANONYMOUS if credential is None else Authorization(_header(credential), credential)
        if housekeeping:
            token = self._fetcher.tokens.find((self._challenge, credential), wanted)
            return await self._housekeeping_token(self._challenge, wanted, credential, token)
        return await self._token_for(self._challenge, self._usable(wanted), credential)

    async def reauthorize(
        self,
        name: str,
        wanted: Wanted,
        used: Authorization,
        headers: Collection[str],
        *,
        housekeeping: bool = False,
        renewed: bool = False,
    ) -> Authorization | None:
        """Return what to try after a 401, or None if there is nothing else to try.

        Args:
            name: the repository whose credentials are used.
            wanted: the scopes that the request needs.
            used: the authorization that was refused.
            headers: the answer's WWW-Authenticate headers.
            housekeeping: the request is housekeeping: no token is dropped for it, and a new one is not shared.
            renewed: whether it was itself the result of this method, for the same request.
        """
        if housekeeping and self._challenge is not None:
            return None if renewed else await self._reauthorize_housekeeping(name, wanted, used, headers)
        challenge = self.learn(headers)
        if challenge is None:
            return None
        credential = await self._credential(name)
        if isinstance(challenge, Basic):
            return await self._other_password(name, used, credential)
        wanted = wanted.challenged_for(challenge.scopes)
        alone = False
        if used.token is not None:
            if challenge.error == "insufficient_scope" and used.token.satisfies(wanted):
                # it was requested with all these scopes: only one for this source alone may allow more
                if not await self._may_ask_alone(challenge, wanted, used):
                    return None
                alone = True
            elif not self._may_renew(challenge, used, renewed=renewed):
                return None
        authorization = await self._token_for(challenge, self._usable(wanted), credential, alone=alone)
        token = authorization.token
        return replace(authorization, lacks_source=token is None or not covers(token.asked, wanted.optional))

    async def _other_password(
        self, name: str, used: Authorization, credential: Credential | None
    ) -> Authorization | None:
        if credential is not None and _header(credential) == used.header:
            # a helper's may have changed
            credential = await self._credential(name, older_than=_REFUSED_SECONDS)
        if credential is None or _header(credential) == used.header:
            return None
        return Authorization(_header(credential), credential)

    async def _may_ask_alone(self, challenge: Bearer, wanted: Wanted, used: Authorization) -> bool:
        """Decide whether to request a token for the one source of a mount; if not, the source is denied."""
        token, dest = used.token, self.mounts.dest_of(wanted)
        if token is None or not wanted.optional or not covers(token.asked, wanted.optional):
            return False
        source = wanted.optional[0]
        if len(_sources(token, dest)) > 1 and await self.mounts.probe(source):
            self._fetcher.tokens.narrow((challenge, used.credential), token.value, source)
            return True
        self.mounts.deny(dest, [source])
        return False

    def _may_renew(self, challenge: Bearer, used: Authorization, *, renewed: bool) -> bool:
        """Drop a token that was refused, and decide whether a new one may help."""
        owner, value = (challenge, used.credential), "" if used.token is None else used.token.value
        served = self._fetcher.tokens.has_served(owner, value)
        if challenge.error != "insufficient_scope":
            self._fetcher.tokens.note_worn_out(owner, value)
            self._fetcher.tokens.drop(owner, value, with_older=True)  # these are probably revoked too
        return served or not renewed

    def note_accepted(self, wanted: Wanted, used: Authorization, status: int) -> None:
        """Note the status, other than 401, of the answer to a request that `used` authorized."""
        if used.token is None or not isinstance(self._challenge, Bearer):
            return
        self._fetcher.tokens.note_accepted((self._challenge, used.credential), used.token.value)
        if wanted.optional and status == _CREATED:
            sources = _sources(used.token, self.mounts.dest_of(wanted))
            self.mounts.note_mountable(wanted.optional[0], sources=sources)

    async def _reauthorize_housekeeping(
        self, name: str, wanted: Wanted, used: Authorization, headers: Collection[str]
    ) -> Authorization | None:
        challenge = choose(headers)
        if not isinstance(challenge, Bearer):
            return None
        credential = await self._credential(name)
        if used.token is not None:
            self._fetcher.housekeeping.drop((challenge, credential), used.token.value)
        return await self._housekeeping_token(challenge, wanted.challenged_for(challenge.scopes), credential, None)

    async def _housekeeping_token(
        self, challenge: Bearer, wanted: Wanted, credential: Credential | None, token: Token | None
    ) -> Authorization:
        """Authorize housekeeping: with `token` if there is one, else with one that no other request uses."""
        if token is None:

            async def fetch(scopes: Wanted) -> Token:
                return await self._fetcher.fetch(challenge, scopes, credential)

            token = await self._fetcher.housekeeping.get((challenge, credential), wanted, fetch)
        return Authorization(f"Bearer {token.value}", credential, token)

    def learn(self, headers: Collection[str]) -> Bearer | Basic | None:
        """Read and remember the challenge in an answer's WWW-Authenticate headers; None if there is none."""
        challenge = choose(headers)
        if challenge is not None:
            self._challenge = challenge
        return challenge

    def _usable(self, wanted: Wanted) -> Wanted:
        """Return `wanted` without a source that was refused."""
        unusable = self.mounts.unusable(self.mounts.dest_of(wanted))
        return Wanted(wanted.needed, tuple(scope for scope in wanted.optional if scope not in unusable))

    async def _token_for(
        self, challenge: Bearer, wanted: Wanted, credential: Credential | None, *, alone: bool = False
    ) -> Authorization:
        async def fetch(scopes: Wanted) -> Token:
            return await self._fetcher.fetch(challenge, scopes, credential, joined=alone)

        widen = None if alone else self.mounts.widened
        token = await self._fetcher.tokens.get((challenge, credential), wanted, fetch, widen=widen)
        return Authorization(f"Bearer {token.value}", credential, token)

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

    async def account(self, name: str) -> str | None:
        """Return the digest of the account for a repository; None if a helper would have to be asked."""
        source = self._credentials
        if not isinstance(source, CredentialsAtHand) or not await source.is_at_hand(self._registry, name):
            return None
        credential = await self._credential(name)
        if self._account is None or self._account[0] != credential:
            self._account = credential, await asyncio.to_thread(account_digest, self._registry, credential)
        return self._account[1]

    async def prepare(self, dest: Scope, sources: Sequence[Scope], *, more: bool) -> None:
        """Announce the sources of mounts into a repository, and get their tokens if the registry uses tokens.

        Args:
            dest: the scope for pushing to the repository.
            sources: the scopes for reading from the sources.
            more: whether they are sources beside earlier ones, some of which were refused.
        """
        self.mounts.announce(dest.name, sources, more=more)
        if self._challenge is None:
            return
        wanted = [Wanted((dest,), group) for group in self.mounts.batches(dest.name)]
        results = await asyncio.gather(
            *(self.authorize(dest.name, each) for each in wanted), return_exceptions=True
        )
        if isinstance(results[0], BaseException):  # the others are about sources alone
            raise results[0]

    async def aclose(self) -> None:
        """Cancel the requests for tokens."""
        if "_fetcher" in vars(self):
            await self._fetcher.aclose()


def _sources(token: Token, dest: str) -> Group:
    """Return the sources that a token was requested for."""
    return tuple(scope for scope in token.asked if scope.name != dest)


def _header(credential: Credential) -> str:
    """Return the Authorization header that sends the credential itself to a registry."""
    return f"Bearer {credential.secret}" if credential.kind == "registry" else basic(credential)
