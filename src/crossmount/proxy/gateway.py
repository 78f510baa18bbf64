"""Several registries behind one address: which one a request is for, and its path there.

A request names its registry by `?ns=` (or the header OCI-Namespace), as containerd does with a `hosts.toml`, or
by the first component of its path: `/v2/registry.example.com/team/app/…`. Any other request is for the first
upstream.
"""

from collections.abc import Mapping
from urllib.parse import parse_qsl, quote, unquote_to_bytes, urlencode

from crossmount._dataclass import dataclass
from crossmount.proxy.app import App
from crossmount.proxy.http.exchange import Message, Receive, Send
from crossmount.proxy.http.headers import PLAIN_PATHS, ClientPaths
from crossmount.proxy.http.routes import OWN_PREFIX

_API = b"/v2/"
_OWN = OWN_PREFIX.encode()
_BY_UPSTREAM = (b"token", b"events")
"""The proxy's own endpoints that each upstream has: `/_crossmount/token/NAME`."""

_HARMLESS = frozenset(
    b"accept accept-encoding authorization content-length content-range content-type expect host if-match "
    b"if-modified-since if-none-match if-range origin range sec-fetch-site traceparent tracestate "
    b"transfer-encoding user-agent x-request-id".split()
)
"""The headers that a request for an upstream other than the first one may have. Cookies and other headers may be
credentials for the first one. An Authorization is judged by the upstream's own authenticator."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The upstream of a request, and the request as it is there.

    Attributes:
        upstream: the upstream's name; None if the request names one that this proxy does not have.
        raw_path: the path.
        query: the query.
        paths: how paths of the registry look to the client.
    """

    upstream: str | None
    raw_path: bytes
    query: bytes
    paths: ClientPaths = PLAIN_PATHS


def choose(raw_path: bytes, query: bytes, *, header: str, names: Mapping[str, str], default: str) -> Choice:
    """Return the upstream of a request. Pure.

    Args:
        raw_path: the request's path, byte for byte.
        query: its query, byte for byte.
        header: the value of OCI-Namespace; empty without it.
        names: what a request may call each upstream, in lower case, and the upstream's own name.
        default: the upstream of a request that names none.
    """
    if raw_path.startswith(_OWN):
        endpoint, _, name = raw_path.removeprefix(_OWN).partition(b"/")
        if endpoint in _BY_UPSTREAM and name:
            return Choice(_known(name, names), _OWN + endpoint, query)
        return Choice(default, raw_path, query)
    namespace, rest = _split_namespace(query)
    namespace = namespace or header
    if namespace:
        upstream = names.get(namespace.lower())
        return Choice(upstream, raw_path, rest, ClientPaths(namespace=namespace))
    first, slash, remainder = raw_path.removeprefix(_API).partition(b"/")
    upstream = _known(first, names) if raw_path.startswith(_API) and slash else None
    if upstream is None:
        return Choice(default, raw_path, query)
    prefix = first + b"/"
    return Choice(upstream, _API + remainder, _at_upstream(query, prefix), ClientPaths(prefix=prefix))


class Gateway:
    """The application of a proxy with several upstreams.

    Args:
        apps: the application of each upstream, by the upstream's name; the first is the default.
        names: what a request may call each upstream, in lower case, and the upstream's own name.
    """

    def __init__(self, apps: Mapping[str, App], names: Mapping[str, str]) -> None:
        self._apps = apps
        self._names = names
        self._default = next(iter(apps))

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass a request on to the application of its upstream."""
        header = next((value for name, value in scope["headers"] if name == b"oci-namespace"), b"")
        choice = choose(
            scope["raw_path"],
            scope["query_string"],
            header=header.decode("latin-1"),
            names=self._names,
            default=self._default,
        )
        upstream = self._default if choice.upstream is None else choice.upstream
        headers = [pair for pair in scope["headers"] if pair[0] != b"oci-namespace"]
        if upstream != self._default:
            headers = [pair for pair in headers if pair[0] in _HARMLESS]
        chosen = {
            **scope,
            "raw_path": choice.raw_path,
            "query_string": choice.query,
            "headers": headers,
            "crossmount.paths": choice.paths,
            "crossmount.unknown_upstream": choice.upstream is None,
        }
        await self._apps[upstream](chosen, receive, send)


def _known(name: bytes, names: Mapping[str, str]) -> str | None:
    return names.get(unquote_to_bytes(name).decode("latin-1").lower())


def _split_namespace(query: bytes) -> tuple[str, bytes]:
    """Return the value of `ns`, empty without it, and the query without it."""
    parts = query.split(b"&")
    found = [part for part in parts if part.partition(b"=")[0] == b"ns"]
    if not found:
        return "", query
    value = unquote_to_bytes(found[0].partition(b"=")[2]).decode("latin-1")
    return value, b"&".join(part for part in parts if part not in found)


def _at_upstream(query: bytes, prefix: bytes) -> bytes:
    """Return a query with the source of a mount as its own registry calls it; none on another registry."""
    if b"from=" not in query:
        return query
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, errors="strict")
    except ValueError:
        return query  # refused as any malformed query
    own = prefix.decode("latin-1")
    kept = [
        (name, value.removeprefix(own) if name == "from" else value)
        for name, value in pairs
        if name != "from" or value.startswith(own)
    ]
    return urlencode(kept, quote_via=quote, safe=":/").encode()
