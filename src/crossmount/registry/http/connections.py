"""How each request of a client connects: straight or through a proxy, and with which certificates.

One client speaks to a registry, its token service and its storage. Each of them may lie behind a proxy or not
(`outbound_proxy`), and only the registry itself is shown the client certificates that are kept for it.
"""

import importlib.util
from collections.abc import Callable
from ssl import SSLContext

import httpx

from crossmount.errors import MissingExtraError
from crossmount.registry.http.location import Origin
from crossmount.registry.http.outbound_proxy import ProxyRules

Trust = SSLContext | bool
"""A TLS context; True for httpx's own authorities, False to check no certificate."""


class Connections(httpx.AsyncBaseTransport):
    """Connections to a registry and to the other hosts that it sends its clients to.

    Args:
        registry: the registry's origin.
        rules: the proxies of the environment.
        trust: makes the TLS context for the registry (True) or for any other host (False). It is called when the
            first such connection is made.
        limits: for the connections that go the same way.
    """

    def __init__(
        self, registry: Origin, *, rules: ProxyRules, trust: Callable[[bool], Trust], limits: httpx.Limits
    ) -> None:
        self._registry = registry
        self._rules = rules
        self._trust = trust
        self._limits = limits
        self._transports: dict[tuple[bool, httpx.URL | None], httpx.AsyncHTTPTransport] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request the way that its URL wants.

        Raises:
            httpx.ConnectError: besides what httpx means by it, the proxy cannot be reached; then the message
                names the proxy.
            MissingExtraError: the proxy speaks SOCKS and the extra for it is not installed.
        """
        proxy = self._rules.proxy_for(request.url)
        transport = self._transport(Origin.of(request.url) == self._registry, proxy)
        if proxy is None:
            return await transport.handle_async_request(request)
        try:
            return await transport.handle_async_request(request)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as error:
            # a failed TLS handshake is with the host behind the proxy, unless the proxy speaks TLS itself
            raise type(error)(
                f"through the proxy {_shown(proxy)}: {str(error) or 'no connection in time'}"
            ) from error

    async def aclose(self) -> None:
        """Close all connections."""
        for transport in self._transports.values():
            await transport.aclose()

    def _transport(self, to_registry: bool, proxy: httpx.URL | None) -> httpx.AsyncHTTPTransport:
        way = (to_registry, proxy)
        if way not in self._transports:
            if proxy is not None and proxy.scheme.startswith("socks") and not importlib.util.find_spec("socksio"):
                raise MissingExtraError(
                    f"the proxy {_shown(proxy)} speaks SOCKS, which needs: pip install 'crossmount[socks]' "
                    "(or name the registry in NO_PROXY)"
                )
            self._transports[way] = httpx.AsyncHTTPTransport(
                verify=self._trust(to_registry), trust_env=False, limits=self._limits, proxy=proxy
            )
        return self._transports[way]


def _shown(proxy: httpx.URL) -> str:
    """Return a proxy's URL for a message: without its user name and password."""
    return str(proxy.copy_with(userinfo=b"")).rstrip("/")
