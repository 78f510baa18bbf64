"""A client of ours like a user's client of redis-py: with its address, its login and its TLS settings.

The connections are our own, since a push must not wait for a server longer than we allow, and redis-py's own wait
without end by default. So the user's client, its pool, its time-outs and its retries are left alone, and it stays
open. A client of redis.asyncio has the same settings, so it serves as well.
"""

from collections.abc import Mapping
from typing import Any

import redis.asyncio
import redis.sentinel
from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider
from redis.retry import Retry

import redis
from crossmount._arguments import kind_of
from crossmount.errors import InvalidInputError
from crossmount.redis.client import ServerClient
from crossmount.redis.connection import OWN_SETTINGS, take_session_tickets
from crossmount.redis.login import Secrets, UserProvider
from crossmount.redis.redis_py import Pool, bound_by_call

UserClient = redis.Redis | redis.ConnectionPool
AsyncUserClient = redis.asyncio.Redis | redis.asyncio.ConnectionPool

_BLOCKING_KIND: Mapping[type, type] = {
    redis.asyncio.Connection: redis.Connection,
    redis.asyncio.SSLConnection: redis.SSLConnection,
    redis.asyncio.UnixDomainSocketConnection: redis.UnixDomainSocketConnection,
}

_TAKEN = frozenset(
    {
        *("host", "port", "path", "db", "username", "password", "credential_provider", "client_name"),
        *("socket_keepalive", "socket_keepalive_options", "socket_type", "redis_connect_func"),
    }
)
"""Settings that are taken over, beside those of TLS."""


def client_like(given: object, *, asynchronous: bool) -> ServerClient:
    """Return a client with the address, the login and the TLS settings of a user's client or pool.

    Args:
        given: a `redis.Redis` or a `redis.ConnectionPool`, or the same of `redis.asyncio`.
        asynchronous: whether it must be of `redis.asyncio`.

    Raises:
        InvalidInputError: it is something else, or of the other flavour, or has no single server.
    """
    pool: Any = getattr(given, "connection_pool", given)
    wanted = redis.asyncio.ConnectionPool if asynchronous else redis.ConnectionPool
    if not isinstance(pool, wanted) or isinstance(pool, _SENTINEL_POOLS):
        raise InvalidInputError(_refusal(given, asynchronous=asynchronous))
    kind = _BLOCKING_KIND.get(pool.connection_class) if asynchronous else pool.connection_class
    if kind is None or not issubclass(kind, redis.Connection | redis.UnixDomainSocketConnection):
        raise InvalidInputError(_refusal(given, asynchronous=asynchronous))
    given_settings: dict[str, Any] = pool.connection_kwargs
    settings = {
        name: value
        for name, value in given_settings.items()
        if (name in _TAKEN or name.startswith("ssl_")) and value is not None
    }
    if asynchronous and "redis_connect_func" in settings:
        raise InvalidInputError(_refusal(given, asynchronous=asynchronous))
    is_tls = issubclass(kind, redis.SSLConnection)
    secrets = Secrets(str(settings.get("password") or ""))
    if isinstance(settings.get("credential_provider"), CredentialProvider):
        settings["credential_provider"] = UserProvider(settings["credential_provider"], secrets)
    elif is_tls and "password" not in settings:
        settings.setdefault("redis_connect_func", take_session_tickets)
    try:
        kind(**OWN_SETTINGS, **settings)  # connects with the first call
    except (TypeError, ValueError, redis.RedisError):
        raise InvalidInputError(_refusal(given, asynchronous=asynchronous)) from None
    own = Pool(
        connection_class=kind,
        retry=Retry(NoBackoff(), 1),
        **OWN_SETTINGS,
        **settings,
    )
    bound_by_call(own)
    return ServerClient(redis.Redis.from_pool(own), _where(settings, is_tls=is_tls), secrets)


_SENTINEL_POOLS = (redis.sentinel.SentinelConnectionPool, redis.asyncio.sentinel.SentinelConnectionPool)


def _where(settings: Mapping[str, Any], *, is_tls: bool) -> str:
    if "path" in settings:
        return f"unix://{settings['path']}"
    host, port = str(settings.get("host", "localhost")), settings.get("port", 6379)
    return f"{'rediss' if is_tls else 'redis'}://{f'[{host}]' if ':' in host else host}:{port}"


def _refusal(given: object, *, asynchronous: bool) -> str:
    kind, place = type(given), "redis.asyncio" if asynchronous else "redis"
    package = kind.__module__.partition(".")[0]
    named = kind_of(given) if package == "builtins" else f"a {package} {kind.__name__}"
    return (
        f"not an index: {named}: give open_index a URL (redis://, "
        f"redis+cluster://, redis+sentinel://) and `credentials`, or a {place}.Redis or {place}.ConnectionPool"
    )
