"""The headers that the proxy forwards in each direction, and how it rewrites Location and Link. Pure.

Headers of one connection are not forwarded (RFC 9110, 7.6.1). Neither are the client's forwarding headers: a
registry builds its Locations from them, and the proxy follows these.
"""

import re
from collections.abc import Callable, Iterable
from urllib.parse import quote

import httpx

from crossmount._dataclass import dataclass
from crossmount.proxy.http.errors import RequestRefusedError
from crossmount.registry.http.location import Origin

HeaderPairs = list[tuple[bytes, bytes]]

_HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
_NOT_SENT_ON = _HOP_BY_HOP | {
    b"host",
    b"expect",
    b"content-length",
    b"authorization",
    b"forwarded",
    b"via",
    b"x-original-url",
    b"x-rewrite-url",
    b"x-real-ip",
    b"x-http-method",
    b"x-http-method-override",
    b"x-method-override",
}
_NOT_SENT_BACK = _HOP_BY_HOP | {b"alt-svc", b"strict-transport-security"}
_LINK = re.compile(r"<([^<>]*)>")
_LINK_BYTES = re.compile(rb"<([^<>]*)>")
_REWRITTEN_MAX = 32
"""The most URLs that are rewritten in an answer's headers, since each costs time; further ones are left out."""

_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_DIGITS = re.compile(rb"[0-9]{1,18}")
_BEYOND_ASCII = re.compile("[\x80-\xff]")


@dataclass(frozen=True, slots=True)
class ClientPaths:
    """How paths of the registry look to a client that names the registry in each request.

    Attributes:
        prefix: the component of the client's paths that names the registry, with a slash; empty without one.
        namespace: the value of the `ns` parameter of the client's requests; empty without one.
    """

    prefix: bytes = b""
    namespace: str = ""

    def rewritten(self, headers: Iterable[tuple[bytes, bytes]]) -> HeaderPairs:
        """Return an answer's headers with Location and Link as the client must send them."""
        if not self.prefix and not self.namespace:
            return list(headers)
        return [(name, self._value(name, value)) for name, value in headers]

    def _value(self, name: bytes, value: bytes) -> bytes:
        if name == b"location":
            return self._target(value)
        if name == b"link":
            return _LINK_BYTES.sub(lambda match: b"<" + self._target(match[1]) + b">", value)
        return value

    def _target(self, target: bytes) -> bytes:
        if not target.startswith(b"/v2/"):
            return target
        if self.prefix:
            return b"/v2/" + self.prefix + target.removeprefix(b"/v2/")
        target, mark, fragment = target.partition(b"#")
        joint = b"&" if b"?" in target else b"?"
        return target + joint + b"ns=" + quote(self.namespace, safe=":").encode() + mark + fragment


PLAIN_PATHS = ClientPaths()
"""The paths of a client that does not name the registry."""


def check_framing(headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Refuse headers that let two servers split a connection into requests differently (RFC 9112, 6.3 and 11).

    Raises:
        RequestRefusedError: two lengths, a length that is not a number, a length with an encoding, or an unknown
            encoding.
    """
    pairs = list(headers)
    lengths = [value for name, value in pairs if name == b"content-length"]
    encodings = [value for name, value in pairs if name == b"transfer-encoding"]
    hosts = [value for name, value in pairs if name == b"host"]
    if len(lengths) > 1 or any(not _DIGITS.fullmatch(value) for value in lengths):
        raise _unframed("Content-Length must be one number")
    if encodings and (lengths or [value.strip().lower() for value in encodings] != [b"chunked"]):
        raise _unframed("Transfer-Encoding must be chunked alone, without Content-Length")
    if len(hosts) > 1:
        raise _unframed("Host must come once")


def _unframed(message: str) -> RequestRefusedError:
    return RequestRefusedError(400, "UNSUPPORTED", message, close=True)


def request_headers(headers: Iterable[tuple[bytes, bytes]]) -> HeaderPairs:
    """Return the headers of a request for the registry, without Authorization and Content-Length.

    A name with an underscore is left out: some servers treat it as the same name with a hyphen.
    """
    pairs = list(headers)
    dropped = _NOT_SENT_ON | _named_in_connection(pairs)
    return [
        (name, value)
        for name, value in pairs
        if name not in dropped and b"_" not in name and not name.startswith(b"x-forwarded-")
    ]


def blob_request_headers(headers: Iterable[tuple[bytes, bytes]]) -> HeaderPairs:
    """Return the headers for the registry of a request whose body is a blob, or empty.

    The client's Content-Type is replaced: distribution reads parameters from a body that is declared as a form.
    """
    return [
        *(pair for pair in request_headers(headers) if pair[0] != b"content-type"),
        (b"content-type", b"application/octet-stream"),
    ]


def answer_headers(headers: httpx.Headers, *, upstream: Origin, asked: Callable[[], httpx.URL]) -> HeaderPairs:
    """Return the headers of an answer for the client, with Location and Link rewritten.

    Args:
        headers: the answer's headers.
        upstream: the origin of the registry behind the proxy.
        asked: returns the URL of the request.
    """
    pairs = [(name.lower(), value) for name, value in headers.raw]
    dropped = _NOT_SENT_BACK | _named_in_connection(pairs)
    if any(name == b"transfer-encoding" for name, _ in pairs):
        dropped |= {b"content-length"}  # the encoding overrides it (RFC 9112, 6.3)
    kept, urls = [], 0
    for name, value in pairs:
        if name in dropped:
            continue
        own = _urls_in(name, value)
        urls += own
        if not own or urls <= _REWRITTEN_MAX:
            kept.append((name, _rewritten(name, value, upstream, asked)))
    return kept


def is_well_formed(name: bytes, value: bytes) -> bool:
    """Return whether this may be sent as a header (RFC 9110, 5.5 and 5.6.2); httpx accepts more in answers."""
    return _NAME.fullmatch(name) is not None and _CONTROL.search(value) is None


def _named_in_connection(pairs: HeaderPairs) -> set[bytes]:
    return {
        word.strip().lower()
        for name, value in pairs
        if name == b"connection"
        for word in value.split(b",")
        if word.strip().lower() not in {b"content-length", b"location", b"www-authenticate", b""}
    }


def _urls_in(name: bytes, value: bytes) -> int:
    if name == b"link":
        return value.count(b"<")
    return 1 if name == b"location" else 0


def _rewritten(name: bytes, value: bytes, upstream: Origin, asked: Callable[[], httpx.URL]) -> bytes:
    if name == b"location":
        return rewritten_location(value.decode("latin-1"), upstream=upstream, asked=asked()).encode("latin-1")
    if name == b"link":
        text = value.decode("latin-1")
        return _LINK.sub(
            lambda match: f"<{rewritten_location(match[1], upstream=upstream, asked=asked())}>", text
        ).encode("latin-1")
    return value


def rewritten_location(location: str, *, upstream: Origin, asked: httpx.URL) -> str:
    """Return a Location for the client.

    A URL on the registry becomes a path, which the client resolves against the proxy. A URL elsewhere, such as the
    signed URL of a storage service, stays as it is.

    Args:
        location: the header's value, a character a byte (latin-1).
        upstream: the origin of the registry behind the proxy.
        asked: the URL of the request.
    """
    try:
        url = asked.join(_BEYOND_ASCII.sub(lambda match: f"%{ord(match[0]):02X}", location))
        here = Origin.of(url)
    except (httpx.InvalidURL, ValueError):
        return location
    same = here == upstream or (
        # a registry behind a TLS terminator may give http URLs
        (here.host, {here.scheme, upstream.scheme}) == (upstream.host, {"http", "https"})
    )
    if not same or url.userinfo:
        return location
    path = url.raw_path.decode("ascii")
    if path.startswith("//"):
        return location  # as a path it would name another host
    _, mark, fragment = location.partition("#")
    return path + mark + fragment
