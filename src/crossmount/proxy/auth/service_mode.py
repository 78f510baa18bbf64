"""`--auth service`: the proxy checks its callers itself, and acts with credentials of its own.

It therefore also checks that no web page uses them: a browser can reach every port of its machine and network.
"""

import asyncio
import ipaddress
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit
from weakref import WeakValueDictionary

from crossmount._dataclass import dataclass
from crossmount.oci import Repository
from crossmount.proxy.auth.allowed_callers import CallerChecks
from crossmount.proxy.auth.callers import BASIC_CHALLENGE, Agent, Caller, read_basic
from crossmount.proxy.http.errors import RequestRefusedError
from crossmount.proxy.http.exchange import Exchange
from crossmount.proxy.http.headers import HeaderPairs
from crossmount.proxy.http.upstream import RejectedAuth
from crossmount.proxy.reload import Live
from crossmount.registry import RegistryClient
from crossmount.registry.auth.scope import NOTHING, Wanted, delete, pull, push


@dataclass(frozen=True, slots=True)
class OwnNames:
    """The hosts that a request may name, in lower case.

    A page whose name is made to point at the proxy (DNS rebinding) sends its own name as Host, and any page can
    send a simple POST, with its Origin. Clients of registries send no Origin, and the name that they were given as
    Host.

    Attributes:
        hosts: the names. IP addresses and `localhost` are always allowed, since DNS rebinding needs a name. None
            allows every name: then each caller needs a password or a token, which no foreign page knows.
        origin: scheme, host and port of the public URL; empty if there is none.
    """

    hosts: frozenset[str] | None = None
    origin: str = ""

    @classmethod
    def of(cls, listen: str, public_url: str | None, *, any_host: bool) -> "OwnNames":
        """Return the names of a proxy.

        Args:
            listen: the address that it listens on.
            public_url: its URL for callers, if it has one.
            any_host: whether every Host is allowed.
        """
        public = None if public_url is None else urlsplit(public_url).hostname
        hosts = frozenset(name.lower() for name in (listen, public) if name)
        return cls(None if any_host else hosts, (public_url or "").lower())

    def check(self, exchange: Exchange) -> None:
        """Check that a request is meant for this proxy, and is not sent by a page of another site.

        Raises:
            RequestRefusedError: another name in Host (421), or another site in Origin or Sec-Fetch-Site (403).
        """
        host = exchange.header(b"host") or ""
        if self.hosts is not None and host and not self._is_own(_host_of(f"//{host}")):
            raise RequestRefusedError(
                421, "UNSUPPORTED", "the Host is not a name of this proxy: use its address, or set --public-url"
            )
        foreign = (exchange.header(b"sec-fetch-site") or "").strip().lower() in {"cross-site", "same-site"}
        origins = exchange.values(b"origin")
        if foreign or any(not self._same_site(origin.decode("latin-1"), host) for origin in origins):
            raise RequestRefusedError(403, "DENIED", "a page of another site may not use this proxy")

    def _same_site(self, origin: str, host: str) -> bool:
        origin = origin.strip().lower()
        return origin != "" and (origin == self.origin or origin.partition("://")[2] == host.lower() != "")

    def _is_own(self, name: str | None) -> bool:
        if name is None or self.hosts is None:
            return False
        if name == "localhost" or name in self.hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


def _host_of(url: str) -> str | None:
    """Return the host in a URL, in lower case; None if there is none."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises ValueError for an invalid port
    except ValueError:
        return None
    return None if parts.username is not None or parts.path else parts.hostname


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
        checks = self._checks.value
        name = "" if checks.callers.permits_everyone else await self._name(exchange, checks)
        if name is None:
            raise RequestRefusedError(
                401, "UNAUTHORIZED", "this proxy needs a password or a token: log in", headers=[BASIC_CHALLENGE]
            )
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

    def rewritten_challenges(self, exchange: Exchange, headers: HeaderPairs) -> HeaderPairs:
        """Return an answer's headers without challenges: they are for the proxy, and no caller can answer them."""
        del exchange
        return [pair for pair in headers if pair[0] != b"www-authenticate"]

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
