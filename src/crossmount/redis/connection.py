"""From a URL to a link, with time-outs that a push can afford."""

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, assert_never

import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider
from redis.retry import Retry

import redis
from crossmount.redis.address import Node
from crossmount.redis.cluster import ClusterLink
from crossmount.redis.deadline import hurry
from crossmount.redis.forkable import ForkablePool
from crossmount.redis.link import CALL_SECONDS, AsyncLink, BlockingLink, Link, Reader
from crossmount.redis.login import Secrets, provider_of
from crossmount.redis.pools import AsyncPools, BlockingPools
from crossmount.redis.sentinel import AsyncPool, AsyncSentinel, BlockingPool, BlockingSentinel
from crossmount.redis.tls import settle, tls_settings
from crossmount.redis.url import address_of

TIMEOUT_SECONDS = 0.5
"""To connect, and between two bytes of a reply; with one retry a silent server costs twice that."""

CONNECTIONS = 16
THREADS = 64
"""Connections of a blocking link: as many threads work without waiting for each other."""

_SETTINGS: dict[str, Any] = {
    "socket_connect_timeout": TIMEOUT_SECONDS,
    "socket_timeout": TIMEOUT_SECONDS,
    "protocol": 2,  # needs no greeting, so the first call costs one round trip as well
    # no CLIENT SETINFO, which would be two more round trips: redis-py 7 took the older names out of use
    **(
        {"driver_info": None}
        if importlib.util.find_spec("redis.driver_info")
        else {"lib_name": None, "lib_version": None}
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Flavour:
    """What of redis-py's and ours one flavour is made of."""

    client: Any
    sentinel: Any
    retry: Any
    pool: Any
    sentinel_pool: Any
    plain: Any
    tls: Any
    unix: Any
    link: Any
    pools: Any
    connections: int
    settle: Any
    prepare: Callable[[Any], None]


_ASYNC = _Flavour(
    client=redis.asyncio.Redis,
    sentinel=AsyncSentinel,
    retry=AsyncRetry,
    pool=redis.asyncio.BlockingConnectionPool,
    sentinel_pool=AsyncPool,
    plain=redis.asyncio.Connection,
    tls=redis.asyncio.SSLConnection,
    unix=redis.asyncio.UnixDomainSocketConnection,
    link=AsyncLink,
    pools=AsyncPools,
    connections=CONNECTIONS,
    settle=None,
    prepare=lambda _: None,
)
_BLOCKING = _Flavour(
    client=redis.Redis,
    sentinel=BlockingSentinel,
    retry=Retry,
    pool=ForkablePool,
    sentinel_pool=BlockingPool,
    plain=redis.Connection,
    tls=redis.SSLConnection,
    unix=redis.UnixDomainSocketConnection,
    link=BlockingLink,
    pools=BlockingPools,
    connections=THREADS,
    settle=settle,
    prepare=hurry,
)


def async_link(url: str, *, credentials: CredentialProvider | None = None, hints: bool = False) -> Link:
    """Make a link for an event loop. Reads the files that the URL names; no other I/O.

    Args:
        url: where the servers are.
        credentials: redis-py's way to log in, in place of a login in the URL.
        hints: make the link for look-ups alone, which replicas may answer if the URL says so.

    Raises:
        InvalidIndexURLError: `url` names no Redis server, or a file that cannot be read.
        InvalidInputError: `credentials` is no provider, or the URL has a login too.
    """
    return _Maker(_ASYNC, url, credentials).link(hints=hints)


def blocking_link(url: str, *, credentials: CredentialProvider | None = None, hints: bool = False) -> Link:
    """Make a link that never suspends, as `async_link` makes one for an event loop."""
    return _Maker(_BLOCKING, url, credentials).link(hints=hints)


class _Maker:
    """Makes what leads to the servers of one URL, in one flavour."""

    def __init__(self, flavour: _Flavour, url: str, credentials: CredentialProvider | None) -> None:
        address, secrets = address_of(url), Secrets()
        self._flavour = flavour
        self._address = address
        self._secrets = secrets
        self._common = {**_SETTINGS, **({} if address.tls is None else tls_settings(address.tls))}
        self._server = {
            **self._common,
            "db": address.database,
            "client_name": address.client_name or None,
            **self._login(provider_of(address.login, secrets, credentials)),
            "timeout": CALL_SECONDS,  # for a free connection: the server may be well and only we are many
            "max_connections": flavour.connections,
        }

    def link(self, *, hints: bool) -> Link:
        """Make the link."""
        address, replicas = self._address, hints and self._address.from_replicas
        match address.topology:
            case "cluster":
                reader = Reader(address.where, redis.Redis(protocol=2).response_callbacks, self._secrets)
                pools = self._flavour.pools(lambda node: self._pool(node, retries=0), reader)
                return ClusterLink(pools, address.nodes, reader, replicas=replicas)
            case "sentinel":
                return self._sentinel_link(replicas=replicas)
            case "socket":
                return self._client_link(self._pool(None, retries=1))
            case "server":
                return self._client_link(self._pool(address.nodes[0], retries=1))
        assert_never(address.topology)

    def _login(self, provider: CredentialProvider | None) -> dict[str, Any]:
        if provider is None and self._address.tls is not None:
            return {"redis_connect_func": self._flavour.settle}
        return {"credential_provider": provider}

    def _client_link(self, pool: Any, also: Sequence[Any] = ()) -> Link:
        client = self._flavour.client.from_pool(pool)
        link: Link = self._flavour.link(client, self._address.where, self._secrets, also)
        return link

    def _pool(self, node: Node | None, *, retries: int) -> Any:
        """Make the pool of one server; without a node, of the unix socket."""
        flavour, address = self._flavour, self._address
        kind = flavour.unix if node is None else flavour.plain if address.tls is None else flavour.tls
        pool = flavour.pool(
            connection_class=kind,
            retry=flavour.retry(NoBackoff(), retries),
            **({"path": address.path} if node is None else {"host": node[0], "port": node[1]}),
            **self._server,
        )
        flavour.prepare(pool)
        return pool

    def _sentinel_link(self, *, replicas: bool) -> Link:
        flavour, address = self._flavour, self._address
        # these choose the kind of their connections themselves
        secure = {} if address.tls is None else {"ssl": True}
        sentinels = flavour.sentinel(
            address.nodes,
            sentinel_kwargs={
                **self._common,
                **secure,
                **self._login(provider_of(address.sentinel_login, self._secrets)),
                "retry": flavour.retry(NoBackoff(), 0),
            },
        )
        for client in sentinels.sentinels:
            flavour.prepare(client.connection_pool)
        pool = flavour.sentinel_pool(
            address.service,
            sentinels,
            is_master=not replicas,
            retry=flavour.retry(NoBackoff(), 1),
            **secure,
            **self._server,
        )
        flavour.prepare(pool)
        return self._client_link(pool, also=sentinels.sentinels)
