"""Callers of the proxy: their identity, their rights, and the agents that act with these rights."""

import asyncio
import base64
import binascii
import weakref
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import field
from functools import partial
from typing import Protocol

import httpx

from crossmount._dataclass import dataclass
from crossmount._expiring import ExpiringSet
from crossmount.index.protocol import MountIndex
from crossmount.mount import Mounter
from crossmount.oci import Digest, Repository
from crossmount.proxy.auth.admission import Admission
from crossmount.proxy.http.exchange import Exchange
from crossmount.proxy.http.headers import HeaderPairs
from crossmount.proxy.http.upstream import RejectedAuth, RequestAuth, SharedTransport
from crossmount.registry import ClientOptions, RegistryClient
from crossmount.registry.auth.scope import Scope, covers
from crossmount.registry.credentials.authfiles import Credential
from crossmount.registry.credentials.lookup import CredentialSource
from crossmount.registry.http.transport import HttpClient

AGENTS_MAX = 512
PROBATION_MAX = 64
"""Agents of callers that the registry has not let in yet."""

READABLE_SECONDS = 3600.0
REFUSED_SECONDS = 60.0
"""How long it is remembered that the registry showed or refused a repository to a caller."""

_NAMES_MAX = 4096
_SIZES_MAX = 1024

ORIGIN = "the caller of the proxy"
BASIC_CHALLENGE = (b"www-authenticate", b'Basic realm="crossmount"')
_KEY_LETTERS = 12


@dataclass(slots=True, eq=False, weakref_slot=True)
class Agent:
    """A registry client and a mounter that act with the rights of one caller.

    Attributes:
        readable: the names of repositories that the caller was seen to read.
        unreadable: those that the registry lately did not let it read.
        asked: those that the registry is asked about, or was lately.
        sizes: bytes of blobs, as the registry told this caller.
    """

    client: RegistryClient
    mounter: Mounter
    readable: ExpiringSet[str] = field(default_factory=partial(ExpiringSet, READABLE_SECONDS, limit=_NAMES_MAX))
    unreadable: ExpiringSet[str] = field(default_factory=partial(ExpiringSet, REFUSED_SECONDS, limit=_NAMES_MAX))
    asked: ExpiringSet[str] = field(default_factory=partial(ExpiringSet, REFUSED_SECONDS, limit=_NAMES_MAX))
    sizes: OrderedDict[Digest, int] = field(default_factory=OrderedDict)

    def note_size(self, digest: Digest, size: int) -> None:
        """Remember how many bytes a blob has, whatever the repository: the digest names its bytes."""
        self.sizes[digest] = size
        self.sizes.move_to_end(digest)
        if len(self.sizes) > _SIZES_MAX:
            self.sizes.popitem(last=False)

    async def aclose(self) -> None:
        """Close the mounter and the client."""
        await self.mounter.aclose()
        await self.client.aclose()


@dataclass(frozen=True, slots=True)
class Caller:
    """The sender of a request.

    Attributes:
        key: identifies the caller's credentials, which cannot be computed from it.
        authorization: the Authorization that is sent to the registry with this request.
        agent: acts for the caller; None if the proxy can only forward the caller's requests.
        scopes: the scopes of the token in use; None if only the registry knows the caller's rights.
        name: the caller's name in the proxy's own files.
        peer: the address of a caller without credentials.
        admission: whether the registry has let these credentials in lately; None if there are none to refuse.
        account: acts for the account that obtained the caller's token, where `agent` has the token's rights alone.
        widen: returns a challenge for a token with more scopes; None if the caller is asked for none.
        authorize: returns the Authorization for the registry, where the proxy uses credentials of its own: for a
            repository (None for the registry itself), a method, and the Authorization that was rejected before.
    """

    key: str
    authorization: str | None = field(default=None, repr=False)
    agent: Agent | None = None
    scopes: tuple[Scope, ...] | None = None
    name: str = ""
    peer: str = ""
    admission: Admission | None = None
    account: Agent | None = None
    widen: Callable[[Exchange, tuple[Scope, ...]], str | None] | None = field(default=None, repr=False)
    authorize: Callable[[Repository | None, str, RejectedAuth | None], Awaitable[str | None]] | None = field(
        default=None, repr=False
    )

    @property
    def log_name(self) -> str:
        """The caller's name in logs; never a user name as it was sent, since some clients send tokens as names."""
        return self.name or self.key[:_KEY_LETTERS]

    @property
    def is_anonymous(self) -> bool:
        """Whether the request carries no credentials, and the proxy adds none."""
        return self.authorization is None and self.authorize is None

    @property
    def is_admitted(self) -> bool:
        """Whether the proxy may act for the caller now, because the registry has lately let it in."""
        return self.admission is None or self.admission.is_recent

    def authorization_for(self, repository: Repository | None, method: str) -> RequestAuth:
        """Return what authorizes a request of the caller's, and learns from its answer.

        Args:
            repository: the repository of the request; None for the registry itself.
            method: the request's method.
        """

        async def authorize(rejected: RejectedAuth | None) -> str | None:
            if self.authorize is not None:
                return await self.authorize(repository, method, rejected)
            return self.authorization if rejected is None else None

        def observe(response: httpx.Response) -> None:
            if self.admission is not None and self.authorization is not None:
                self.admission.observe(response, scheme=self.authorization.partition(" ")[0].lower())
            if self.agent is not None and repository is not None and response.is_success:
                self.agent.readable.add(repository.name)

        return RequestAuth(authorize, observe, owner=f"{self.key} {self.peer}" if self.peer else self.key)

    def may_push(self, name: str) -> bool:
        """Return whether a write to a repository may be attempted with the caller's rights.

        A token covers only the scopes that were requested: a token for a pull does not cover a push, whatever
        rights its owner has. Rights of Basic credentials and of anonymous callers are known to the registry alone,
        which checks each request.
        """
        if self.agent is None:
            return False
        return self.scopes is None or covers(self.scopes, [Scope("repository", name, ("push",))])

    def may_mount_from(self, name: str) -> bool:
        """Return whether a repository may be tried as a source with the rights that the caller has shown."""
        if self.account is None or self.scopes is None:
            return True
        return covers(self.scopes, [Scope("repository", name, ("pull",))])


class Authenticator(Protocol):
    """Identifies callers: one implementation for each value of `--auth`."""

    async def authenticate(self, exchange: Exchange) -> Caller:
        """Return the caller of a request.

        Raises:
            RequestRefusedError: the caller is not permitted.
        """
        ...

    def own_caller(self) -> Caller | None:
        """Return the proxy itself as a caller; None if it has no credentials of its own."""
        ...

    async def answer_token_request(self, exchange: Exchange) -> None:
        """Answer a request for a token.

        Raises:
            RequestRefusedError: the request is invalid, or the proxy issues no tokens.
        """
        ...

    async def permit_metrics(self, exchange: Exchange) -> None:
        """Check that the sender of a request may see the metrics.

        Raises:
            RequestRefusedError: it may not.
        """
        ...

    async def permit_page(self, exchange: Exchange, *, names: bool) -> None:
        """Check that the sender of a request may see a page.

        Args:
            exchange: the request.
            names: whether the page has the names of all repositories; else it has what the metrics have.

        Raises:
            RequestRefusedError: it may not.
        """
        ...

    def rewritten_challenges(self, exchange: Exchange, headers: HeaderPairs) -> HeaderPairs:
        """Return the headers of a registry's answer, with challenges that a client of the proxy can answer."""
        ...


class Agents:
    """The agents of recent callers, bounded: the least recently used one is removed first.

    The agent of a caller that the registry has not let in yet is on probation, among few. So made-up
    credentials take no room from good ones.

    A removed agent still serves the requests that use it. It owns no connections, so it needs no closing then.

    Args:
        registry: any repository of the registry.
        options: how to reach the registry.
        index: the index of sources.
        connections: the HTTP client whose connections all agents share.
        limit: the most agents that are stored.
        probation: the most agents on probation.
    """

    def __init__(
        self,
        registry: Repository,
        *,
        options: ClientOptions,
        index: MountIndex,
        connections: HttpClient,
        limit: int = AGENTS_MAX,
        probation: int = PROBATION_MAX,
    ) -> None:
        self._registry = registry
        self._options = options
        self._index = index
        self._connections = connections
        self._limit = limit
        self._probation_limit = probation
        self._agents: OrderedDict[str, Agent] = OrderedDict()
        self._probation: OrderedDict[str, Agent] = OrderedDict()
        self._alive: weakref.WeakSet[Agent] = weakref.WeakSet()

    def get(self, key: str, credentials: Callable[[], CredentialSource]) -> Agent:
        """Return the agent of the caller with this key; a new one is made with these credentials."""
        agents = self._agents if key in self._agents else self._probation
        agent = agents.get(key)
        if agent is None:
            client = RegistryClient(
                self._registry,
                options=self._options,
                credentials=credentials(),
                transport=SharedTransport(self._connections, owner=key),
            )
            agent = agents[key] = Agent(client, Mounter(client, self._index))
            self._alive.add(agent)
            if len(agents) > self._probation_limit:
                agents.popitem(last=False)
        agents.move_to_end(key)
        return agent

    def admit(self, key: str) -> None:
        """End the probation of a caller that the registry has let in."""
        agent = self._probation.pop(key, None)
        if agent is not None:
            self._agents[key] = agent
            if len(self._agents) > self._limit:
                self._agents.popitem(last=False)

    def drop(self, key: str) -> None:
        """Drop the agent of a caller that the registry has refused, with its tokens."""
        self._agents.pop(key, None)
        self._probation.pop(key, None)

    async def aclose(self) -> None:
        """Close all agents, also removed ones that are still in use."""
        await asyncio.gather(*(agent.aclose() for agent in list(self._alive)))
        self._agents.clear()
        self._probation.clear()


def read_basic(value: str) -> Credential | None:
    """Return the credential in the value of a Basic Authorization (RFC 7617); None if it is malformed."""
    try:
        text = base64.b64decode(value, validate=True).decode()
    except (binascii.Error, ValueError):
        return None
    user, colon, password = text.partition(":")
    return Credential(user, password, origin=ORIGIN) if colon else None
