"""How each request of a client connects: straight or through a proxy, and with which certificates.

One client speaks to a registry, its token service and its storage. Each of them may lie behind a proxy or not
(`outbound_proxy`), and only the registry itself is shown the client certificate that is stored for it
(`certificates`).

If the registry cuts the first connection, one TLS handshake finds out why: plain http was used with a server that
speaks TLS, or the server wants a client certificate.
"""

import asyncio
import importlib.util
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import httpx

from crossmount.errors import MissingExtraError
from crossmount.registry.http.certificates import TrustStore
from crossmount.registry.http.location import Origin
from crossmount.registry.http.outbound_proxy import ProxyRules
from crossmount.registry.http.tls import TlsProbe, os_reason, probe_tls

if TYPE_CHECKING:
    from crossmount.registry.http.pool import ConnectionPool

PROBE_SECONDS = 3.0
"""The longest time of the handshake that finds out why the first connection was cut."""

_CUT = (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError)

Route = tuple[str, bool, httpx.URL | None]
"""The scheme, whether it leads to the registry itself, and the proxy."""


class TlsExpectedError(httpx.UnsupportedProtocol):
    """Plain http was used with a server that speaks TLS. Another attempt would not change that."""


class Connections(httpx.AsyncBaseTransport):
    """Connections to a registry and to the other hosts that it sends its clients to.

    Args:
        registry: the registry's origin; None for a client that serves no particular registry.
        rules: the proxies of the environment.
        trust: the TLS contexts; they are loaded when the first TLS connection is made.
        limit: the most connections that go the same way.
        probe: makes one TLS handshake.
    """

    def __init__(
        self,
        registry: Origin | None,
        *,
        rules: ProxyRules,
        trust: TrustStore,
        limit: int,
        probe: Callable[[Origin], Awaitable[TlsProbe]] | None = None,
    ) -> None:
        self._registry = registry
        self._rules = rules
        self._trust = trust
        self._limit = limit
        self._probe = probe or self._handshake
        self._pools: dict[Route, ConnectionPool] = {}
        self._has_answered = False
        self._probed: TlsProbe | None = None
        self._probing = asyncio.Lock()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request over the connection that its URL needs.

        Raises:
            httpx.ConnectError: besides what httpx means by it, the proxy cannot be reached; then the message
                names the proxy.
            TlsExpectedError: the registry speaks TLS, and the URL is an http one.
            MissingExtraError: the proxy speaks SOCKS and the extra for it is not installed.
        """
        proxy = self._rules.proxy_for(request.url)
        origin = Origin.of(request.url)
        pool = self._pool((origin.scheme, origin == self._registry, proxy))
        if proxy is not None:
            return await _through(proxy, pool, request)
        if origin != self._registry or self._has_answered:
            return await pool.handle_async_request(request)
        try:
            response = await pool.handle_async_request(request)
        except _CUT as error:
            await self._explain(origin, error)
            raise
        if response.status_code != 400:
            self._has_answered = True
        elif origin.scheme == "http":
            try:
                await self._check_plain(origin)
            except BaseException:
                await response.aclose()
                raise
        return response

    async def aclose(self) -> None:
        """Close all connections."""
        for pool in self._pools.values():
            await pool.aclose()

    def _pool(self, route: Route) -> "ConnectionPool":
        if route not in self._pools:
            # they load h11, and many programs that import crossmount never connect
            from crossmount.registry.http.dialing import Dialer  # noqa: PLC0415
            from crossmount.registry.http.pool import ConnectionPool  # noqa: PLC0415

            scheme, to_registry, proxy = route
            if proxy is not None and proxy.scheme.startswith("socks"):
                _check_socks(proxy)
            dialer = Dialer(
                self._trust.context(for_registry=to_registry) if scheme == "https" else None,
                proxy,
                self._trust.context(for_registry=False) if proxy is not None and proxy.scheme == "https" else None,
            )
            self._pools[route] = ConnectionPool(dialer.dial, limit=self._limit)
        return self._pools[route]

    async def _explain(self, origin: Origin, error: httpx.TransportError) -> None:
        """Raise a better error if TLS is why the registry cut the connection."""
        found = await self._probe_once(origin)
        if origin.scheme == "http" and found.speaks_tls:
            raise TlsExpectedError("it speaks TLS") from error
        if origin.scheme == "https" and found.alert is not None:
            raise httpx.ConnectError(str(found.alert)) from found.alert
        if origin.scheme == "https" and found.hung_up:  # or it restarts, so this may be retried
            raise httpx.ReadError(
                "cut after the TLS handshake: it may want a client certificate, or it is not up"
            ) from error

    async def _check_plain(self, origin: Origin) -> None:
        """Raise an error if a server that answers 400 in the clear speaks TLS, or says so.

        Go's servers, nginx and Apache answer so on a port for TLS; the words are missing where a HEAD was sent.
        The pool may be full, so this connection is none of its own.
        """
        if (await self._probe_once(origin)).speaks_tls:
            raise TlsExpectedError("it speaks TLS")
        from crossmount.registry.http.dialing import Dialer  # noqa: PLC0415 as in `_pool`

        request = httpx.Request("GET", f"{origin}/v2/")
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                connection = await Dialer().dial(request.url, None)
                try:
                    answer = await connection.send(request)
                    first = await connection.read()
                finally:
                    connection.close()
        except (httpx.HTTPError, TimeoutError):
            return
        if answer.status_code == 400 and b"HTTPS" in first:
            raise TlsExpectedError("it speaks TLS")

    async def _probe_once(self, origin: Origin) -> TlsProbe:
        async with self._probing:
            if self._probed is None:
                self._probed = await self._probe(origin)
        return self._probed

    async def _handshake(self, origin: Origin) -> TlsProbe:
        context = self._trust.context(for_registry=True) if origin.scheme == "https" else None
        return await probe_tls(origin.host, origin.port, context=context, seconds=PROBE_SECONDS)


def _check_socks(proxy: httpx.URL) -> None:
    if not importlib.util.find_spec("python_socks"):
        raise MissingExtraError(
            f"the proxy {shown_proxy(proxy)} speaks SOCKS, which needs: pip install 'crossmount[socks]' "
            "(or name the registry in NO_PROXY)"
        )


async def _through(proxy: httpx.URL, pool: "ConnectionPool", request: httpx.Request) -> httpx.Response:
    """Send a request through a proxy; an error of the proxy names it."""
    try:
        return await pool.handle_async_request(request)
    except httpx.ProxyError as error:
        raise httpx.ProxyError(f"the proxy {shown_proxy(proxy)} refused: {error}") from error
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        why = os_reason(error) or str(error) or "no connection in time"
        raise type(error)(f"no connection through the proxy {shown_proxy(proxy)}: {why}") from error


def shown_proxy(proxy: httpx.URL) -> str:
    """Return a proxy's URL for a message: without its user name and password."""
    return str(proxy.copy_with(userinfo=b"")).rstrip("/")
