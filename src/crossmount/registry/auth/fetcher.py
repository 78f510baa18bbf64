"""Gets tokens from realms, and finds out which sources of mounts a realm refuses."""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from dataclasses import replace

import httpx

from crossmount.errors import CredentialsError, InvalidAnswerError, RegistryError, RegistryRefusedError
from crossmount.registry.auth.challenge import Bearer, RealmTrust, judge_realm
from crossmount.registry.auth.flow import Token, TokenRequest, not_granted, token_flow
from crossmount.registry.auth.mount_scopes import Group, Halved, MountScopes, halving
from crossmount.registry.auth.scope import Wanted
from crossmount.registry.auth.tokens import TokenCache
from crossmount.registry.credentials.authfiles import Credential
from crossmount.registry.http.location import parse_url
from crossmount.registry.http.transport import Answer

_GRANTED = 200
_SERVER_ERROR = 500
_UNCLEAR = frozenset({408, 429})

_TOGETHER_MAX = 8
"""The most concurrent requests for tokens."""

SendTokenRequest = Callable[[TokenRequest], Awaitable[Answer]]


class TokenFetcher:
    """Gets tokens.

    Args:
        registry: the registry, for messages.
        root: its `/v2/`; a realm is judged against it.
        trusted: hosts of realms that the user trusts.
        send: sends a request for a token.
        mounts: what is known about the scopes of sources.
        looked: returns where credentials were looked for, for messages.
        clock: seconds, from any start.

    Attributes:
        tokens: the tokens that requests share; those that were given besides the wanted one are among them.
        housekeeping: tokens that were requested for housekeeping alone.
    """

    def __init__(
        self,
        registry: str,
        root: httpx.URL,
        *,
        trusted: Collection[str],
        send: SendTokenRequest,
        mounts: MountScopes,
        looked: Callable[[], str] = str,
        clock: Callable[[], float],
    ) -> None:
        self.tokens = TokenCache(clock=clock)
        self.housekeeping = TokenCache(clock=clock)
        self._registry = registry
        self._root = root
        self._trusted = trusted
        self._send = send
        self._mounts = mounts
        self._looked = looked
        self._together = asyncio.Semaphore(_TOGETHER_MAX)

    async def aclose(self) -> None:
        """Cancel the requests for tokens."""
        await self.tokens.aclose()
        await self.housekeeping.aclose()

    async def fetch(
        self, challenge: Bearer, wanted: Wanted, credential: Credential | None, *, joined: bool = False
    ) -> Token:
        """Get a token, and others for those of its sources that the realm grants in other tokens only.

        Args:
            challenge: names the realm.
            wanted: the scopes; the optional ones are those of sources.
            credential: the credential, None for an anonymous token.
            joined: send all scopes in one parameter.

        Raises:
            CredentialsError: the credential would go to an untrusted host.
            RegistryError: no token was given for the scopes that are needed.
        """
        mounts, dest = self._mounts, self._mounts.dest_of(wanted)
        if len(wanted.optional) > 1 and mounts.ask_singly(dest, wanted.optional):
            owner, needed = (challenge, credential), wanted.without_optional()
            token = self.tokens.find(owner, needed) or await self._request(challenge, needed, credential)
            found = await self._find_refused(challenge, wanted, credential, singly=True)
        else:
            joined = joined or (mounts.one_source is True and len(wanted.optional) == 1)
            token = await self._request(challenge, wanted, credential, joined=joined)
            if token.refusal is None or not dest:
                return token
            found = await self._refused_of(challenge, wanted, credential, token)
        mounts.deny(dest, found.refused)
        mounts.leave_unasked(dest, found.unasked)
        return replace(token, refused=found.refused + found.unasked)

    async def _refused_of(
        self, challenge: Bearer, wanted: Wanted, credential: Credential | None, token: Token
    ) -> Halved:
        """Find out which of the scopes that a token lacks are refused."""
        if token.refusal == _GRANTED:
            for source in token.refused if len(wanted.optional) > 1 else ():
                if not self._mounts.may_probe(source):
                    break
                alone = Wanted(wanted.needed, (source,))
                if await self._is_granted(challenge, alone, credential, joined=True):
                    self._mounts.one_source = True
                    return Halved()
            return Halved(refused=token.refused)
        if token.refusal is None or token.refusal >= _SERVER_ERROR:
            return Halved(unasked=token.refused)
        self._mounts.refuses_whole = True
        return await self._find_refused(challenge, wanted, credential, singly=False)

    async def _find_refused(
        self, challenge: Bearer, wanted: Wanted, credential: Credential | None, *, singly: bool
    ) -> Halved:
        dest = self._mounts.dest_of(wanted)

        async def ask(group: Group) -> bool | None:
            return await self._is_granted(challenge, Wanted(wanted.needed, group), credential)

        flow = halving(wanted.optional, singly=singly, limit=self._mounts.requests_left(dest))
        try:
            groups = next(flow)
            while True:
                self._mounts.spend(dest, len(groups))
                groups = flow.send(tuple(await asyncio.gather(*map(ask, groups))))
        except StopIteration as end:
            found: Halved = end.value
            return found

    async def _is_granted(
        self, challenge: Bearer, wanted: Wanted, credential: Credential | None, *, joined: bool = False
    ) -> bool | None:
        """Request a token for all of `wanted`, and keep it; None if the realm did not say."""
        whole = Wanted(wanted.all)  # nothing is optional: a refusal is the answer
        try:
            token = await self._request(challenge, whole, credential, joined=joined)
        except RegistryRefusedError as refused:
            return None if refused.status >= _SERVER_ERROR or refused.status in _UNCLEAR else False
        except RegistryError:
            return None
        if not_granted(token.value, wanted):
            return False
        self.tokens.add((challenge, credential), token)
        return True

    async def _request(
        self, challenge: Bearer, wanted: Wanted, credential: Credential | None, *, joined: bool = False
    ) -> Token:
        """Send the requests for one token."""
        self._check_realm(challenge, credential)
        flow = token_flow(challenge, wanted, credential, joined=joined, looked=self._looked())
        async with self._together:
            try:
                request = next(flow)
                while True:
                    request = flow.send(await self._send(request))
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
