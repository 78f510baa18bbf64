"""The URL of an index server: checked wholly before anything connects, so that a mistake is told as one.

Parts of a URL may be a secret, also those that only look like an option or a port because a password was not
percent-encoded. So a message repeats the host and the port, and never anything else.
"""

from urllib.parse import SplitResult, parse_qsl, urlsplit

from crossmount.errors import InvalidIndexURLError

REDIS_SCHEMES = ("redis", "rediss", "unix")

_OPTIONS = frozenset({"db", "username", "password", "client_name"})
_TLS_OPTIONS = frozenset(
    {f"ssl_{name}" for name in ("ca_certs", "ca_path", "certfile", "keyfile", "password", "cert_reqs")}
    | {"ssl_check_hostname"}
)
_CERT_REQS = frozenset({"none", "optional", "required"})
_HOST_MAX, _LABEL_MAX = 253, 63
_HINT = "percent-encode / ? # @ : in a password"


def address_of(url: str) -> str:
    """Check the URL of an index server, and return what to call the server in messages.

    Raises:
        InvalidIndexURLError: it names none, or holds something that would be silently left out.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        raise InvalidIndexURLError(f"the index URL has a host that cannot be read; {_HINT}") from None
    if parts.scheme not in REDIS_SCHEMES:
        raise InvalidIndexURLError(
            "not an index URL: give redis://, rediss://, unix://, memory:// or embedded: (no index: off, or None)"
        )
    if not url[len(parts.scheme) :].startswith("://"):
        raise InvalidIndexURLError(f"an index URL of this kind begins with {parts.scheme}://")
    if parts.fragment or url.endswith("#"):
        raise InvalidIndexURLError(f"the index URL has a #, which nothing may follow; {_HINT}")
    _check_options(parts)
    return _socket(parts) if parts.scheme == "unix" else _host_and_port(parts)


def _socket(parts: SplitResult) -> str:
    if not parts.path.startswith("/") or parts.path == "/" or parts.netloc.rpartition("@")[2]:
        raise InvalidIndexURLError("a unix:// index URL needs an absolute path: unix:///run/valkey.sock")
    if "%00" in parts.path or not parts.path.isprintable():
        raise InvalidIndexURLError("the path of a unix:// index URL has a character that no path may have")
    return f"unix://{parts.path}"


def _host_and_port(parts: SplitResult) -> str:
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise InvalidIndexURLError(f"the index URL has a port that is no number from 1 to 65535; {_HINT}")
    database = parts.path.removeprefix("/")
    if database and not _is_number(database):
        raise InvalidIndexURLError(f"the index URL has a path that is no database number, as in /0; {_HINT}")
    host = parts.hostname or "localhost"
    labels = host.removesuffix(".").split(".")
    if (
        len(host) > _HOST_MAX
        or not all(0 < len(label) <= _LABEL_MAX for label in labels)
        or any(c.isspace() or not c.isprintable() or c in "%@/\\" for c in host)
    ):
        raise InvalidIndexURLError(f"the index URL has a host that is no host name; {_HINT}")
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{port or 6379}"


def _check_options(parts: SplitResult) -> None:
    """Refuse what redis-py would take for something else, or only stumble over when it connects."""
    known = _OPTIONS | _TLS_OPTIONS if parts.scheme == "rediss" else _OPTIONS
    try:
        options = parse_qsl(parts.query, strict_parsing=True, keep_blank_values=True) if parts.query else []
    except ValueError:
        raise InvalidIndexURLError(f"the index URL has options that are not name=value; {_HINT}") from None
    names = [name for name, _ in options]
    if not known.issuperset(names) or len(set(names)) != len(names):
        raise InvalidIndexURLError(
            f"the index URL has an option that is twice there or not one of {', '.join(sorted(known))}; {_HINT}"
        )
    values = dict(options)
    if not _is_number(values.get("db", "0")):
        raise InvalidIndexURLError("the index URL's option db is no database number")
    if values.get("ssl_cert_reqs", "none") not in _CERT_REQS:
        raise InvalidIndexURLError("the index URL's option ssl_cert_reqs is none of none, optional, required")


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 9
