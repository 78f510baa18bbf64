"""Who asks, and what the proxy may do for them: a caller, and the client that acts with that caller's rights."""

import asyncio
import weakref
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import httpx

from crossmount.index.protocol import MountIndex
from crossmount.mount import Mounter
from crossmount.oci import Repository
from crossmount.proxy.http.upstream import Authorize, RejectedAuth, SharedTransport
from crossmount.registry import ClientOptions, RegistryClient
from crossmount.registry.auth.scope import Scope, covers
from crossmount.registry.credentials.lookup import CredentialSource

AGENTS_MAX = 512
_SHOWN = 12


@dataclass(slots=True, eq=False, weakref_slot=True)
class Agent:
    """Acts at the registry with one caller's rights."""

    client: RegistryClient
    mounter: Mounter

    async def aclose(self) -> None:
        """Let it end."""
        await self.mounter.aclose()
        await self.client.aclose()


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever sent a request.

    Attributes:
        key: the same for the same credentials, and never to be turned back into them.
        name: what the proxy's own files call it.
        authorization: what upstream is sent for this request.
        agent: acts for the caller; None if all the proxy can do is to pass on.
        scopes: what the token in use allows; None if rights don't come in scopes, and only the registry knows.
        authorize: gives what upstream is sent, where the proxy has credentials of its own; see `Authorize`.
    """

    key: str
    authorization: str | None = field(default=None, repr=False)
    agent: Agent | None = None
    scopes: tuple[Scope, ...] | None = None
    name: str = ""
    authorize: Callable[[Repository | None, str, RejectedAuth | None], Awaitable[str | None]] | None = field(
        default=None, repr=False
    )

    @property
    def shown(self) -> str:
        """What to call it in a log; a user name as it was sent is no name to write down: some are tokens."""
        return self.name or self.key[:_SHOWN]

    @property
    def nameless(self) -> bool:
        """Whether the request carries nothing that says who sends it."""
        return self.authorization is None and self.authorize is None

    def authorization_for(self, repository: Repository | None, method: str) -> Authorize:
        """Return what gives the authorization of a request on a repository, or on the registry as such."""

        async def authorize(rejected: RejectedAuth | None) -> str | None:
            if self.authorize is not None:
                return await self.authorize(repository, method, rejected)
            return self.authorization if rejected is None else None

        return authorize

    def may_push(self, name: str) -> bool:
        """Tell whether a write to a repository may be tried in the caller's name.

        A token says what it was asked for: one that a puller asked for doesn't cover a push, whatever its owner
        might do. Basic and anonymous rights are not told to anybody: there the registry decides each time, under
        the caller's own Authorization.
        """
        if self.agent is None:
            return False
        return self.scopes is None or covers(self.scopes, [Scope("repository", name, ("push",))])


class Agents:
    """The agents of the callers of late; those that were not used for longest make way.

    One that makes way still serves the requests that have it, and ends with them: it owns no connections.

    Args:
        registry: the registry that all of them act at.
        options: how to reach it.
        index: where they know sources from.
        connections: the client whose connections they share.
        limit: how many are kept.
    """

    def __init__(
        self,
        registry: Repository,
        *,
        options: ClientOptions,
        index: MountIndex,
        connections: httpx.AsyncClient,
        limit: int = AGENTS_MAX,
    ) -> None:
        self._registry = registry
        self._options = options
        self._index = index
        self._transport = SharedTransport(connections)
        self._limit = limit
        self._agents: OrderedDict[str, Agent] = OrderedDict()
        self._alive: weakref.WeakSet[Agent] = weakref.WeakSet()

    def of(self, key: str, credentials: Callable[[], CredentialSource]) -> Agent:
        """Return the agent of the caller with this key."""
        agent = self._agents.get(key)
        if agent is None:
            client = RegistryClient(
                self._registry, options=self._options, credentials=credentials(), transport=self._transport
            )
            agent = self._agents[key] = Agent(client, Mounter(client, self._index))
            self._alive.add(agent)
            if len(self._agents) > self._limit:
                self._agents.popitem(last=False)
        self._agents.move_to_end(key)
        return agent

    async def aclose(self) -> None:
        """Let all of them end."""
        await asyncio.gather(*(agent.aclose() for agent in list(self._alive)))
        self._agents.clear()
