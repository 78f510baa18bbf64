"""Which HTTP or SOCKS proxy a request goes through, as the environment says. Pure.

The rules are those of Go's golang.org/x/net/http/httpproxy, which docker, podman, skopeo and crane follow, so that
one environment means the same to all of them:

- `HTTP_PROXY` serves http URLs, `HTTPS_PROXY` serves https URLs. `ALL_PROXY`, which curl reads, serves both where
  neither is set.
- A loopback address and the name `localhost` never go through a proxy.
- `NO_PROXY` is a list of exceptions: `*`, a name (with its subdomains), `.domain` (subdomains alone), an IP
  address, a network in CIDR form. A name or an address may end in a port.
"""

import ipaddress
from collections.abc import Mapping
from dataclasses import field

import httpx

from crossmount._dataclass import dataclass
from crossmount.errors import InvalidInputError
from crossmount.registry.http.location import PORT_MAX

_SCHEMES = {"http", "https", "socks5", "socks5h"}
_PORTS = {"http": 80, "https": 443}

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Exemption:
    """One entry of NO_PROXY.

    Attributes:
        network: the addresses that the entry covers, if it names addresses.
        suffix: `.example.com`; it covers every host below example.com.
        host: a host that the entry covers by its whole name.
        port: the one port that the entry covers; None covers all.
    """

    network: Network | None = None
    suffix: str | None = None
    host: str | None = None
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> "Exemption | None":
        """Read one entry; None if it is not an entry (Go ignores such a word too)."""
        text = text.strip().lower()
        if not text:
            return None
        if (network := _network(text)) is not None:
            return cls(network=network)
        host, port = _split_port(text)
        if (network := _network(host)) is not None:
            return cls(network=network, port=port)
        host = host.removeprefix("*") if host.startswith("*.") else host
        if host.startswith("."):
            return cls(suffix=host, port=port)
        return cls(suffix=f".{host}", host=host, port=port) if host else None

    def covers(self, host: str, port: int | None, address: Address | None) -> bool:
        """Return whether a request to this host and port is exempt from proxies."""
        if self.port is not None and self.port != port:
            return False
        if address is not None:
            return self.network is not None and address in self.network
        return host == self.host or (self.suffix is not None and host.endswith(self.suffix))


@dataclass(frozen=True, slots=True)
class ProxyRules:
    """The proxies of an environment.

    Attributes:
        by_scheme: the URL of the proxy for `http` and for `https`; its password stays out of the repr.
        exempt_all: whether NO_PROXY is `*`.
        exemptions: the other entries of NO_PROXY.
    """

    by_scheme: Mapping[str, httpx.URL] = field(default_factory=dict, repr=False)
    exempt_all: bool = False
    exemptions: tuple[Exemption, ...] = ()

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "ProxyRules":
        """Read the rules.

        Args:
            environment: variables by name; upper case wins over lower case, as in Go.

        Raises:
            InvalidInputError: a proxy's URL is not one.
        """
        proxies: dict[str, httpx.URL] = {}
        for scheme in ("http", "https"):
            # a web server hands a client's `Proxy` header to a CGI program as HTTP_PROXY (CVE-2016-5386)
            names = () if scheme == "http" and environment.get("REQUEST_METHOD") else (f"{scheme}_proxy",)
            for name in (*names, "all_proxy"):
                text = environment.get(name.upper()) or environment.get(name)
                if text:
                    proxies[scheme] = _proxy_url(text.strip(), name.upper())
                    break
        words = (environment.get("NO_PROXY") or environment.get("no_proxy") or "").replace(",", " ").split()
        entries = (Exemption.parse(word) for word in words if word != "*")
        return cls(proxies, "*" in words, tuple(entry for entry in entries if entry is not None))

    @classmethod
    def through(cls, proxy: str) -> "ProxyRules":
        """Return the rules that send everything through one proxy, except what is on this machine.

        Raises:
            InvalidInputError: it is no URL of a proxy.
        """
        url = _proxy_url(proxy.strip(), "proxy")
        return cls({"http": url, "https": url}, False, ())

    def proxy_for(self, url: httpx.URL) -> httpx.URL | None:
        """Return the URL of the proxy that a request to `url` goes through; None if it goes straight."""
        proxy = self.by_scheme.get(url.scheme)
        if proxy is None or self.exempt_all:
            return None
        host = url.host.lower().rstrip(".")
        address = _address(host)
        if host == "localhost" or (address is not None and address.is_loopback):
            return None
        port = url.port or _PORTS.get(url.scheme)
        if any(exemption.covers(host, port, address) for exemption in self.exemptions):
            return None
        return proxy


def _proxy_url(text: str, variable: str) -> httpx.URL:
    """Read a proxy's URL; without a scheme it is an http one, and `socks` is what some desktops call SOCKS 5."""
    try:
        url = httpx.URL(text if "://" in text else f"http://{text}")
        if url.scheme == "socks":
            url = url.copy_with(scheme="socks5")
        is_proxy = url.scheme in _SCHEMES and bool(url.host) and (url.port or 0) <= PORT_MAX
    except (httpx.InvalidURL, TypeError, ValueError):
        is_proxy = False
    if not is_proxy:
        raise InvalidInputError(
            f"{variable}: not the URL of a proxy: give http://, https:// or socks5://HOST:PORT, or unset it"
        )
    return url


def _split_port(text: str) -> tuple[str, int | None]:
    """Split `host:port` and `[v6]:port`; a bare IPv6 address has no port."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or (":" in host and not host.endswith("]")):
        return text.strip("[]"), None
    return host.strip("[]"), int(port)


def _network(text: str) -> Network | None:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None


def _address(host: str) -> Address | None:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return address if mapped is None else mapped
