"""From an address to a client: time-outs that a push can afford, logins, and TLS."""

import importlib.util
import ssl
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, assert_never

from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider
from redis.retry import Retry

import redis
from crossmount.errors import InvalidIndexURLError
from crossmount.redis.address import Address, Node, ReadFrom, Tls
from crossmount.redis.client import Client, ServerClient
from crossmount.redis.login import Secrets, credential_provider, open_regular_file, reason
from crossmount.redis.nearest import NearestClient
from crossmount.redis.pipeline import TIMEOUT_SECONDS
from crossmount.redis.redis_py import Pool, SentinelPool, Sentinels, bound_by_call, passing_silent_replicas
from crossmount.redis.replies import ReplyReader


def tls_settings(tls: Tls) -> dict[str, Any]:
    """Return redis-py's settings for TLS connections.

    Raises:
        InvalidIndexURLError: a file cannot be read, or has no certificate or key.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        about = "ca_file"
        if tls.ca_file is not None:
            context.load_verify_locations(_readable(tls.ca_file))
        about = "cert_file or key_file"
        if tls.cert_file is not None:
            key = None if tls.key_file is None else _readable(tls.key_file)
            context.load_cert_chain(_readable(tls.cert_file), key, password=_no_password)
    except ssl.SSLError as error:
        wrong = f"{about} is no PEM file of its kind, or they do not fit"
        if tls.cert_file is not None and tls.key_file is None and about != "ca_file":
            wrong = "cert_file holds no key, or is no PEM file: give key_file too"
        raise InvalidIndexURLError(f"the index URL's {wrong}") from error
    except (OSError, ValueError) as error:
        raise InvalidIndexURLError(f"the index URL's {about} cannot be read: {reason(error)}") from None
    settings: dict[str, Any] = {
        "ssl_cert_reqs": "required" if tls.check_certificate else "none",
        "ssl_check_hostname": tls.check_hostname,
    }
    files = {"ssl_ca_certs": tls.ca_file, "ssl_certfile": tls.cert_file, "ssl_keyfile": tls.key_file}
    return settings | {name: str(path) for name, path in files.items() if path is not None}


def take_session_tickets(connection: Any) -> None:
    """Read the session tickets that a TLS server sends after the handshake, by waiting for the reply to a PING.

    redis-py 8 with hiredis takes session tickets (RFC 8446, section 4.6.1) for an unexpected reply, and closes the
    connection. The reply to a login comes after them, so only connections without a login need this.
    """
    connection.on_connect()
    connection.send_command("PING", check_health=False)
    connection.read_response()


def _readable(path: Path) -> str:
    with open_regular_file(path):  # its error has the reason, and OpenSSL's has not
        return str(path)


def _no_password() -> str:
    raise ValueError("its key asks for a password")


OWN_SETTINGS: dict[str, Any] = {
    "socket_connect_timeout": TIMEOUT_SECONDS,
    "socket_timeout": TIMEOUT_SECONDS,
    "protocol": 2,  # needs no greeting, so the first call costs one round trip as well
    # no CLIENT SETINFO, which would be two more round trips: redis-py 7 deprecated the older names
    **(
        {"driver_info": None}
        if importlib.util.find_spec("redis.driver_info")
        else {"lib_name": None, "lib_version": None}
    ),
}


def connect(
    address: Address, *, credentials: CredentialProvider | None = None, for_look_ups: bool = False
) -> Client:
    """Make a client. Reads the files that the address names; no other I/O, the first call connects.

    Args:
        address: where the servers are.
        credentials: redis-py's way to log in, in place of a login in the address.
        for_look_ups: make a client for look-ups alone, which replicas may answer if the address allows it.

    Raises:
        InvalidIndexURLError: a file that the address names cannot be read.
        InvalidInputError: `credentials` is no provider, or the address has a login too.
    """
    return _Maker(address, credentials).client(address.read_from if for_look_ups else "master")


class _Maker:
    """Makes the connections to the servers of one address."""

    def __init__(self, address: Address, credentials: CredentialProvider | None) -> None:
        secrets = Secrets()
        self._address = address
        self._secrets = secrets
        self._common = {**OWN_SETTINGS, **({} if address.tls is None else tls_settings(address.tls))}
        # redis-py's Sentinel chooses the class of its connections itself
        self._secure = {} if address.tls is None else {"ssl": True}
        self._server = {
            **self._common,
            "db": address.database,
            "client_name": address.client_name or None,
            **self._login(credential_provider(address.login, secrets, credentials)),
        }

    def client(self, read_from: ReadFrom) -> Client:
        """Make the client."""
        address, from_replicas = self._address, read_from == "replica"
        if read_from == "nearest" and address.topology in {"server", "sentinel"}:
            return self._nearest_client()
        match address.topology:
            case "cluster":
                from crossmount.redis.cluster import ClusterClient, Pools  # noqa: PLC0415 others load none of it

                reader = ReplyReader(address.where, redis.Redis(protocol=2).response_callbacks, self._secrets)
                pools = Pools(lambda node: self._pool(node, retries=0))
                return ClusterClient(pools, address.nodes, reader, read_from=read_from, prefer=address.prefer)
            case "sentinel":
                return self._sentinel_client(from_replicas=from_replicas)
            case "socket":
                return self._server_client(self._pool(None, retries=1))
            case "server":
                return self._server_client(self._pool(address.nodes[0], retries=1))
            case "memory" | "embedded":
                raise AssertionError(address.topology)  # these have no address to connect to
        assert_never(address.topology)

    def _login(self, provider: CredentialProvider | None) -> dict[str, Any]:
        if provider is None and self._address.tls is not None:
            return {"redis_connect_func": take_session_tickets}
        return {"credential_provider": provider}

    def _server_client(self, pool: Pool, sentinels: Sentinels | None = None) -> ServerClient:
        also = () if sentinels is None else sentinels.sentinels
        return ServerClient(redis.Redis.from_pool(pool), self._address.where, self._secrets, also)

    def _pool(self, node: Node | None, *, retries: int, settings: Mapping[str, Any] | None = None) -> Pool:
        """Make the pool of one server, with the index's settings by default; without a node, of the socket."""
        address = self._address
        kind = (
            redis.UnixDomainSocketConnection
            if node is None
            else redis.Connection
            if address.tls is None
            else redis.SSLConnection
        )
        pool = Pool(
            connection_class=kind,
            retry=Retry(NoBackoff(), retries),
            **({"path": address.path} if node is None else {"host": node[0], "port": node[1]}),
            **(self._server if settings is None else settings),
        )
        bound_by_call(pool)
        return pool

    def _nearest_client(self) -> NearestClient:
        address = self._address
        named: Callable[[], Sequence[Node]] = partial(tuple, address.nodes)
        if address.topology == "sentinel":
            named = partial(self._named_by, self._sentinels())
        return NearestClient(
            address.where,
            named,
            lambda node: self._server_client(self._pool(node, retries=1)),
            prefer=address.prefer,
        )

    def _named_by(self, sentinels: Sentinels) -> list[Node]:
        """Return the replicas and the master that sentinels name."""
        with ReplyReader(self._address.where, {}, self._secrets).errors():
            found: list[Node] = sentinels.discover_slaves(self._address.service)
            with suppress(*([redis.ConnectionError] if found else [])):  # replicas answer without a master too
                found = [*found, sentinels.discover_master(self._address.service)]
        return found

    def _sentinels(self) -> Sentinels:
        login = self._login(credential_provider(self._address.sentinel_login, self._secrets))
        pools = [self._pool(node, retries=0, settings={**self._common, **login}) for node in self._address.nodes]
        return Sentinels([redis.Redis.from_pool(pool) for pool in pools])

    def _sentinel_client(self, *, from_replicas: bool) -> ServerClient:
        address, sentinels = self._address, self._sentinels()
        pool = SentinelPool(  # type: ignore[no-untyped-call]  # redis-py's own gap
            address.service,
            sentinels,
            is_master=not from_replicas,
            retry=Retry(NoBackoff(), 1),
            **self._secure,
            **self._server,
        )
        bound_by_call(pool)
        if from_replicas:
            passing_silent_replicas(pool)
        return self._server_client(pool, sentinels)
