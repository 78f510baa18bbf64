"""Connections to whatever server the sentinels name as the master, or as its replicas: redis-py's own Sentinel."""

from typing import Any

import redis.asyncio
import redis.asyncio.sentinel
import redis.sentinel
from redis.exceptions import AuthenticationError, ConnectionError  # noqa: A004 redis-py's name

from crossmount.redis.forkable import ForkablePool
from crossmount.redis.pools import disconnect_idle


class AsyncPool(redis.asyncio.sentinel.SentinelConnectionPool, redis.asyncio.BlockingConnectionPool):
    """For an event loop; like the other pools it waits for a free connection."""


class BlockingPool(redis.sentinel.SentinelConnectionPool, ForkablePool):
    """For threads; like the other pools it waits for a free connection."""

    def disconnect(self, inuse_connections: bool = True) -> None:
        """Disconnect all connections, or those that nobody uses."""
        if inuse_connections:
            super().disconnect()
        else:
            disconnect_idle(self)


class AsyncSentinel(redis.asyncio.sentinel.Sentinel):
    """Sentinels, asked in an event loop."""

    async def discover_master(self, service_name: str) -> Any:
        """Return the master's address."""
        try:
            return await super().discover_master(service_name)
        except redis.asyncio.sentinel.MasterNotFoundError as error:
            raise _told(error) from None


class BlockingSentinel(redis.sentinel.Sentinel):
    """Sentinels, asked by threads."""

    def discover_master(self, service_name: str) -> Any:
        """Return the master's address."""
        try:
            return super().discover_master(service_name)  # type: ignore[no-untyped-call]  # redis-py's own gap
        except redis.sentinel.MasterNotFoundError as error:
            raise _told(error) from None


def _told(error: ConnectionError) -> ConnectionError:
    """Say in plain words what redis-py tells with its objects' inner state."""
    if "AuthenticationError" in str(error):
        return AuthenticationError("the sentinels do not accept the login: give sentinel_password_file in the URL")
    return ConnectionError("no sentinel that answers knows a master of that service")
