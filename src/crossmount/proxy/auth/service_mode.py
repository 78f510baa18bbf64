"""`--auth service`: the proxy checks its callers itself, and acts with credentials of its own."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

from crossmount.oci import Repository
from crossmount.proxy.auth.allowed_callers import CallerChecks
from crossmount.proxy.auth.callers import BASIC_CHALLENGE, Agent, Caller, read_basic
from crossmount.proxy.auth.own_names import OwnNames
from crossmount.proxy.http.errors import RequestRefusedError
from crossmount.proxy.http.exchange import Exchange
from crossmount.proxy.http.headers import HeaderPairs
from crossmount.proxy.http.upstream import RejectedAuth
from crossmount.proxy.reload import Live
from crossmount.registry import RegistryClient
from crossmount.registry.auth.scope import NOTHING, Wanted, delete, pull, push

_CHECKS_MAX = 2


class ServiceAuthenticator:
    """Lets permitted callers act with the proxy's credentials.

    Args:
        agent: acts with these credentials; replaced when they may have changed.
        checks: checks callers; replaced when their files change, so that a removed caller is out at once.
        names: the names that the proxy is called by.
    """

    def __init__(self, agent: Live[Agent], checks: Live[CallerChecks], *, names: OwnNames) -> None:
        self._agent = agent
        self._checks = checks
        self._names = names
        self._peers = PeerTurns()
        self._pinged: RegistryClient | None = None
        self._checking = asyncio.Semaphore(_CHECKS_MAX)

    async def authenticate(self, exchange: Exchange) -> Caller:
        """Return the caller of a request, identified by a password or a token of the proxy's own files.

        Raises:
            RequestRefusedError: the caller is not one of them (401), the request names another host (421), or a
                web page of another site sent it (403).
        """
        self._names.check(exchange)
        name = await self._permitted(exchange)
        return Caller(
            f"service {name}", agent=self._agent.value, name=name or "anybody", authorize=self._authorize
        )

    def own_caller(self) -> Caller:
        """Return the proxy as a caller, with its own credentials."""
        return Caller("service", agent=self._agent.value, authorize=self._authorize)

    async def answer_token_request(self, exchange: Exchange) -> None:
        """Refuse: the proxy issues no tokens in this mode."""
        del exchange
        raise RequestRefusedError(404, "UNSUPPORTED", "this proxy gives no tokens")

    async def permit_metrics(self, exchange: Exchange) -> None:
        """Show the metrics to the proxy's own callers.

        Raises:
            RequestRefusedError: the caller is not one of them.
        """
        await self.authenticate(exchange)

    async def permit_page(self, exchange: Exchange, *, names: bool) -> None:
        """Show a page to the proxy's own callers.

        Raises:
            RequestRefusedError: the caller is not one of them, or as `authenticate`.
        """
        del names
        self._names.check(exchange, is_page=True)
        await self._permitted(exchange)

    def rewritten_challenges(self, exchange: Exchange, headers: HeaderPairs) -> HeaderPairs:
        """Return an answer's headers without challenges: they are for the proxy, and no caller can answer them."""
        del exchange
        return [pair for pair in headers if pair[0] != b"www-authenticate"]

    async def _permitted(self, exchange: Exchange) -> str:
        """Return the caller's name, empty if everybody is permitted.

        Raises:
            RequestRefusedError: the caller is not permitted.
        """
        checks = self._checks.value
        name = "" if checks.callers.permits_everyone else await self._name(exchange, checks)
        if name is None:
            raise RequestRefusedError(
                401, "UNAUTHORIZED", "this proxy needs a password or a token: log in", headers=[BASIC_CHALLENGE]
            )
        return name

    async def _name(self, exchange: Exchange, checks: CallerChecks) -> str | None:
        scheme, _, value = (exchange.header(b"authorization") or "").partition(" ")
        if scheme.lower() == "bearer":
            return checks.owner_of(value.strip())
        credential = read_basic(value.strip()) if scheme.lower() == "basic" else None
        if credential is None:
            return None
        user, secret = credential.username, credential.secret
        if await checks.check_password(user, secret, self._slow_check(exchange.peer)):
            return user
        return checks.owner_of(secret)  # some clients can send a token only as a password

    @asynccontextmanager
    async def _slow_check(self, peer: str) -> AsyncIterator[None]:
        async with self._peers.turn(peer), self._checking:  # uploads need the threads too
            yield

    async def _authorize(
        self, repository: Repository | None, method: str, rejected: RejectedAuth | None
    ) -> str | None:
        client, wanted = self._agent.value.client, _wanted(repository, method)
        if self._pinged is not client:
            await client.ping()
            self._pinged = client
        if rejected is None:
            return await client.authorization(repository, wanted)
        return await client.reauthorization(repository, wanted, rejected.authorization, rejected.challenges)


class PeerTurns:
    """One slow check at a time for each address: a sender of many wrong passwords delays only itself."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def turn(self, peer: str) -> AsyncIterator[None]:
        """Wait for the turn of an address."""
        lock = self._locks.get(peer)
        if lock is None:
            lock = self._locks[peer] = asyncio.Lock()
        async with lock:
            yield


def _wanted(repository: Repository | None, method: str) -> Wanted:
    if repository is None:
        return NOTHING
    if method in {"GET", "HEAD"}:
        return Wanted((pull(repository),))
    return Wanted((push(repository), delete(repository)) if method == "DELETE" else (push(repository),))
