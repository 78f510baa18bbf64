"""How a connection to a host is opened: straight, through an HTTP proxy, or through a SOCKS one.

HTTP proxies: RFC 9110, 9.3.6, and RFC 9112, 3.2.2. SOCKS: python-socks.
"""

import base64
import socket
import ssl
from typing import Any, cast

import httpx

from crossmount._dataclass import dataclass
from crossmount.registry.http.http11 import Http11Connection, RawHeaders
from crossmount.registry.http.streams import NetworkStream, connect, connected_socket, opened

_PORTS = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080}
_PASSING = frozenset({429, 502, 503, 504})
"""What a proxy answers if it cannot reach the host just now: another attempt may succeed."""

_NO_LIMIT = 1e9
"""A time-out for python-socks that never ends: None would mean one of its own."""


@dataclass(frozen=True, slots=True)
class Dialer:
    """Opens connections to the hosts of one scheme.

    Attributes:
        context: the TLS of the hosts; None for http.
        proxy: the proxy's URL, with its user name and password; None goes straight to each host.
        proxy_context: the TLS of a proxy whose URL is an https one.
    """

    context: ssl.SSLContext | None = None
    proxy: httpx.URL | None = None
    proxy_context: ssl.SSLContext | None = None

    async def dial(self, url: httpx.URL, timeout: float | None) -> Http11Connection:  # noqa: ASYNC109 a number
        """Open a connection to the host of a URL.

        Args:
            url: the URL.
            timeout: the most seconds that each step may take; None sets no limit.

        Raises:
            httpx.ConnectError: no connection.
            httpx.ConnectTimeout: none in time.
            httpx.ProxyError: the proxy refuses.
        """
        host, port = _address(url)
        if self.proxy is None:
            stream = await connect(host, port, timeout=timeout)
        elif self.proxy.scheme.startswith("socks"):
            stream = await _through_socks(self.proxy, host, port, timeout)
        else:
            stream = await connect(*_address(self.proxy), timeout=timeout)
            if self.proxy_context is not None:
                stream = await stream.start_tls(self.proxy_context, _address(self.proxy)[0], timeout=timeout)
            if self.context is None:
                return Http11Connection(stream, forwarding=_authorization(self.proxy))
            await _tunnel(stream, self.proxy, host, port, timeout)
        if self.context is not None:
            stream = await stream.start_tls(self.context, host, timeout=timeout)
        return Http11Connection(stream)


def _address(url: httpx.URL) -> tuple[str, int]:
    return url.raw_host.decode("ascii"), url.port or _PORTS[url.scheme]


def _authorization(proxy: httpx.URL) -> RawHeaders:
    if not proxy.userinfo:
        return []
    userinfo = f"{proxy.username}:{proxy.password}".encode()
    return [(b"Proxy-Authorization", b"Basic " + base64.b64encode(userinfo))]


async def _tunnel(
    stream: NetworkStream,
    proxy: httpx.URL,
    host: str,
    port: int,
    timeout: float | None,  # noqa: ASYNC109 a number
) -> None:
    """Ask a proxy for a tunnel to a host; close the connection if it does not make one."""
    target = f"[{host}]:{port}".encode() if ":" in host else f"{host}:{port}".encode()
    request = httpx.Request(
        "CONNECT",
        proxy,
        headers=[(b"Host", target), (b"Accept", b"*/*"), *_authorization(proxy)],
        extensions={"target": target, "timeout": {"read": timeout, "write": timeout}},
    )
    connection = Http11Connection(stream)
    try:
        answer = await connection.send(request)
    except BaseException as error:
        connection.close()
        if isinstance(error, httpx.TimeoutException):
            raise httpx.ConnectTimeout("no tunnel in time") from error
        if isinstance(error, httpx.NetworkError | httpx.RemoteProtocolError):  # the host was sent nothing
            raise httpx.ConnectError(str(error)) from error
        raise
    if not 200 <= answer.status_code <= 299:
        connection.close()
        refusal = httpx.ConnectError if answer.status_code in _PASSING else httpx.ProxyError
        raise refusal(f"{answer.status_code} {bytes(answer.reason).decode('ascii', 'ignore')}")


async def _through_socks(proxy: httpx.URL, host: str, port: int, timeout: float | None) -> NetworkStream:  # noqa: ASYNC109
    """Connect to a host through a SOCKS proxy, which looks the host up."""
    from python_socks import ProxyError, ProxyType  # noqa: PLC0415 an extra
    from python_socks.async_.asyncio import Proxy  # noqa: PLC0415 an extra

    name, at = _address(proxy)
    user = (proxy.username, proxy.password) if proxy.userinfo else (None, None)
    if not all(part is None or (part.isascii() and len(part) <= 255) for part in user):
        raise httpx.ProxyError("its user name or password is not ASCII, or longer than 255 characters")
    straight = cast("Any", _Straight())  # python-socks tries one address of a proxy alone
    via = Proxy(ProxyType.SOCKS5, name, at, username=user[0], password=user[1], rdns=True, forward=straight)
    try:
        return await opened(via.connect(host, port, _NO_LIMIT), timeout=timeout)
    except ProxyError as error:
        raise httpx.ProxyError(str(error)) from error
    except ValueError as error:  # python-socks does not look at what it encodes and decodes
        raise httpx.ProxyError("the host's name, or its answer, is none that SOCKS knows") from error


class _Straight:
    """Connects to a SOCKS proxy, in the place of a proxy before it."""

    async def connect(self, dest_host: str, dest_port: int, **_: object) -> socket.socket:
        """Connect."""
        return await connected_socket(dest_host, dest_port)
