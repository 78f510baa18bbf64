"""Where an answer sends us next, and what may be sent there: upload Locations, redirects, links. No I/O.

The other side chooses these URLs, so none of them is trusted: an origin other than the registry's never gets
Authorization, and https is never left for http.
"""

from dataclasses import dataclass
from typing import Self

import httpx

from crossmount.errors import InvalidAnswerError

_PORTS = {"http": 80, "https": 443}
_PORT_MAX = 65535
_URL_MAX = 16 * 1024


@dataclass(frozen=True, slots=True)
class Origin:
    """Scheme, host and port: what "the same place" means (RFC 6454)."""

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: httpx.URL) -> Self:
        """Return the origin of `url`, with the scheme's own port where it names none."""
        return cls(url.scheme, url.host.lower().rstrip("."), url.port or _PORTS.get(url.scheme, 0))

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == _PORTS.get(self.scheme) else f":{self.port}"
        return f"{self.scheme}://{host}{port}"


def resolve(location: str | None, *, request: httpx.URL, what: str = "Location") -> httpx.URL:
    """Return the absolute URL that an answer to `request` names.

    Args:
        location: the header's value: absolute, relative to the host or relative to the path.
        request: the URL that was asked.
        what: what to call the header in an error.

    Raises:
        InvalidAnswerError: no URL, one with a user's name in it, or one that may not be followed from here.
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
    return url.copy_with(fragment=None)


def _check_step(here: Origin, there: Origin, what: str) -> None:
    """Refuse to leave https for http, and to speak http to anybody but the host that was asked over http.

    A registry on plain http may point at another port of its own host; another host must be on https.
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
    """Return the URL that the other side wrote, None if it is none, or one whose host can't be decoded (IDNA)."""
    try:
        url = httpx.URL(text)
        Origin.of(url)
    except (httpx.InvalidURL, UnicodeError):
        return None
    return url


def is_plain(url: httpx.URL) -> bool:
    """Tell whether this is an absolute http or https URL that can be asked, with no user's name in it."""
    return url.scheme in _PORTS and bool(url.host) and not url.userinfo and (url.port or 0) <= _PORT_MAX


def with_query(url: httpx.URL, addition: str) -> httpx.URL:
    """Return `url` with `addition` (`name=value`, encoded) after its own query, which stays byte for byte.

    httpx's `params=` would replace the query, and `copy_add_param` encodes it anew, which breaks signatures.
    """
    own = url.query.decode("ascii")
    return url.copy_with(query=(f"{own}&{addition}" if own else addition).encode("ascii"))
