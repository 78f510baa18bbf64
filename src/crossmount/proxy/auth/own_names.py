"""The hosts that a request may name, and the web pages that may not use the proxy.

A browser can reach every port of its machine and its network. A page whose name is made to point there (DNS
rebinding) sends its own name as Host, and any page can send a simple POST, with its Origin. In service mode the
proxy would lend its rights to both. Clients of registries send no Origin, and the name that they were given as
Host. The same trick would let a foreign page read the names on the proxy's own page.
"""

import ipaddress
from urllib.parse import urlsplit

from crossmount._dataclass import dataclass
from crossmount.proxy.http.errors import RequestRefusedError
from crossmount.proxy.http.exchange import Exchange


@dataclass(frozen=True, slots=True)
class OwnNames:
    """The hosts that a request may name, in lower case.

    Attributes:
        hosts: the names. IP addresses and `localhost` are always allowed, since DNS rebinding needs a name. None
            allows every name: then each caller needs a password or a token, which no foreign page knows.
        origin: scheme, host and port of the public URL; empty if there is none.
    """

    hosts: frozenset[str] | None = None
    origin: str = ""

    @classmethod
    def of(cls, listen: str, public_url: str | None, *, any_host: bool) -> "OwnNames":
        """Return the names of a proxy.

        Args:
            listen: the address that it listens on.
            public_url: its URL for callers, if it has one.
            any_host: whether every Host is allowed.
        """
        public = None if public_url is None else urlsplit(public_url).hostname
        hosts = frozenset(name.lower() for name in (listen, public) if name)
        return cls(None if any_host else hosts, (public_url or "").lower())

    def check(self, exchange: Exchange, *, is_page: bool = False) -> None:
        """Check that a request is meant for this proxy, and is not sent by a page of another site.

        Args:
            exchange: the request.
            is_page: whether the answer is a page that changes nothing, and that no frame may show. Then a link on
                a page of another site may lead to it.

        Raises:
            RequestRefusedError: another name in Host (421), or another site in Origin or Sec-Fetch-Site (403).
        """
        host = exchange.header(b"host") or ""
        if self.hosts is not None and host and not self._is_own(_host_of(f"//{host}")):
            raise RequestRefusedError(
                421, "UNSUPPORTED", "the Host is not a name of this proxy: use its address, or set --public-url"
            )
        foreign = (exchange.header(b"sec-fetch-site") or "").strip().lower() in {"cross-site", "same-site"}
        if is_page and (exchange.header(b"sec-fetch-mode") or "").strip().lower() == "navigate":
            foreign = False
        origins = exchange.values(b"origin")
        if foreign or any(not self._same_site(origin.decode("latin-1"), host) for origin in origins):
            raise RequestRefusedError(403, "DENIED", "a page of another site may not use this proxy")

    def _same_site(self, origin: str, host: str) -> bool:
        origin = origin.strip().lower()
        return origin != "" and (origin == self.origin or origin.partition("://")[2] == host.lower() != "")

    def _is_own(self, name: str | None) -> bool:
        if name is None or self.hosts is None:
            return False
        if name == "localhost" or name in self.hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


def _host_of(url: str) -> str | None:
    """Return the host in a URL, in lower case; None if there is none."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises ValueError for an invalid port
    except ValueError:
        return None
    return None if parts.username is not None or parts.path else parts.hostname
