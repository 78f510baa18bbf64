"""URLs that an answer names (upload Locations, redirects, links), and the rules for following them. No I/O.

The other side chooses these URLs, so none of them is trusted: an origin other than the registry's never gets
Authorization, and https is never left for http.
"""

from typing import Self

import httpx

from crossmount._dataclass import dataclass
from crossmount.errors import InvalidAnswerError

_PORTS = {"http": 80, "https": 443}
PORT_MAX = 65535
_URL_MAX = 16 * 1024


@dataclass(frozen=True, slots=True)
class Origin:
    """Scheme, host and port (RFC 6454)."""

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: httpx.URL) -> Self:
        """Return the origin of `url`, with the scheme's default port if it names none."""
        return cls(url.scheme, url.host.lower().rstrip("."), url.port or _PORTS.get(url.scheme, 0))

    @property
    def authority(self) -> str:
        """Host and port; the port only if it is not the scheme's default."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS.get(self.scheme) else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}"


def resolve(location: str | None, *, request: httpx.URL, what: str = "Location") -> httpx.URL:
    """Return the absolute URL that an answer to `request` names.

    Args:
        location: the header's value: absolute, relative to the host or relative to the path.
        request: the request's URL.
        what: the header's name, for an error.

    Raises:
        InvalidAnswerError: the header is missing, is no URL, has a user name, or must not be followed from here.
    """
    where = Origin.of(request)
    if not location or len(location) > _URL_MAX:
        raise InvalidAnswerError(f"{where}: its answer has no usable {what} header")
    try:
        url = request.join(location)
        plain = is_plain(url)
    except (httpx.InvalidURL, UnicodeError, ValueError):
        raise InvalidAnswerError(f"{where}: its {what} header is not a URL") from None
    if not plain:
        raise InvalidAnswerError(f"{where}: its {what} header is not a plain http or https URL")
    _check_step(where, Origin.of(url), what)
    return url.copy_with(fragment=None) if "#" in location else url


def _check_step(here: Origin, there: Origin, what: str) -> None:
    """Refuse a step from https to http, and a step over http to another host.

    A registry on plain http may name another port of its own host; another host must be on https.
    """
    if there.scheme == "https" or here == there:
        return
    if here.scheme == "https":
        raise InvalidAnswerError(
            f"{here}: its {what} header points at {there}, and https is never left for http: if a proxy stands "
            "before the registry, let it send X-Forwarded-Proto"
        )
    if here.host != there.host:
        raise InvalidAnswerError(f"{here}: its {what} header points at {there}, and another host must be on https")


def parse_url(text: str) -> httpx.URL | None:
    """Return the URL that `text` is, or None if it is no URL or its host cannot be decoded (IDNA)."""
    try:
        url = httpx.URL(text)
        Origin.of(url)
    except (httpx.InvalidURL, UnicodeError):
        return None
    return url


def is_plain(url: httpx.URL) -> bool:
    """Return whether `url` is an absolute http or https URL without a user name."""
    return url.scheme in _PORTS and bool(url.host) and not url.userinfo and (url.port or 0) <= PORT_MAX


def with_query(url: httpx.URL, addition: str) -> httpx.URL:
    """Return `url` with `addition` (`name=value`, encoded) appended to its query, which keeps its bytes.

    httpx's `params=` would replace the query, and `copy_add_param` would encode it again, which breaks signatures.
    """
    own = url.query.decode("ascii")
    return url.copy_with(query=(f"{own}&{addition}" if own else addition).encode("ascii"))


def shown(url: httpx.URL) -> str:
    """Return `url` for a message: without its query, which may be signed."""
    path = url.raw_path.partition(b"?")[0]
    if not url.scheme or not url.host or path == b"/":
        return str(url.copy_with(query=None, fragment=None, userinfo=b""))  # this parses all of it again
    return f"{url.scheme}://{url.netloc.decode('ascii')}{path.decode('ascii')}"
