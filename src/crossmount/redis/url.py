"""Read the URL of an index. All of it is checked before anything connects.

Any part of a URL may be a secret: a password that is not percent-encoded may look like an option or a port. So a
message repeats hosts and ports, and nothing else.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar
from urllib.parse import parse_qsl, unquote

from crossmount._parsing import decimal
from crossmount.errors import InvalidIndexURLError
from crossmount.redis.address import SCHEMES, Address, Login, Node, ReadFrom, Tls, Topology

T = TypeVar("T")

_LOGIN = ("username", "password", "username_file", "password_file")
_SENTINEL = "sentinel_"
_READ = ("read_from", "prefer")
_OPTIONS: dict[Topology, tuple[str, ...]] = {
    "server": (*_LOGIN, "client_name", "db", *_READ),
    "socket": (*_LOGIN, "client_name", "db"),
    "cluster": (*_LOGIN, "client_name", *_READ),
    "sentinel": (*_LOGIN, *(_SENTINEL + name for name in _LOGIN), "client_name", "db", *_READ),
}
_TLS_OPTIONS = ("ca_file", "cert_file", "key_file", "check_hostname", "check_certificate")
_REDIS_PY = {
    "ssl_ca_certs": "ca_file",
    "ssl_certfile": "cert_file",
    "ssl_keyfile": "key_file",
    "ssl_check_hostname": "check_hostname",
    "ssl_cert_reqs": "check_certificate",
}
"""redis-py's names of some options."""

_TRUTH = {"yes": True, "true": True, "no": False, "false": False}
_HOST = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<name>[^:\[\]]*))(?::(?P<port>.*))?", re.DOTALL)
_HOST_MAX, _LABEL_MAX, _PORT_MAX = 253, 63, 65535
_DATABASE_DIGITS = 9
_HINT = "percent-encode / ? # @ : in a password"


_WITHOUT_ADDRESS = {f"{scheme}:{slashes}": scheme for scheme in ("memory", "embedded") for slashes in ("", "//")}


def parse_url(url: str) -> Address:
    """Read the URL of an index. No I/O.

    Raises:
        InvalidIndexURLError: it names no index, or has a part that would have no effect.
    """
    if url in _WITHOUT_ADDRESS:
        return Address(scheme=_WITHOUT_ADDRESS[url])
    scheme, topology = _scheme(url)
    rest = url[len(scheme) + len("://") :]
    if "#" in rest:
        raise InvalidIndexURLError(f"the index URL has a #, which nothing may follow; {_HINT}")
    before, _, query = rest.partition("?")
    authority, slash, path = before.partition("/")
    userinfo, _, hosts = authority.rpartition("@")
    tls = scheme.startswith("rediss")
    options = _options(query, (*_OPTIONS[topology], *(_TLS_OPTIONS if tls else ())))
    user, _, password = userinfo.partition(":")
    for name, value in (("username", unquote(user)), ("password", unquote(password))):
        if value and name in options:
            raise InvalidIndexURLError(f"the index URL has a {name} before the @ and another as an option")
        options.setdefault(name, value)
    read_from = _read_from(options, topology)
    return Address(
        scheme=scheme,
        nodes=() if topology == "socket" else _nodes(hosts, topology, read_from),
        path=_socket(hosts, slash + path) if topology == "socket" else "",
        service=_service(path) if topology == "sentinel" else "",
        database=_database(options, path, topology),
        login=_login(options, ""),
        sentinel_login=_login(options, _SENTINEL),
        tls=_tls(options) if tls else None,
        client_name=options.get("client_name", ""),
        read_from=read_from,
        prefer=_preference(options, read_from),
    )


def _scheme(url: str) -> tuple[str, Topology]:
    scheme, colon, rest = url.partition(":")
    topology = SCHEMES.get(scheme.lower()) if colon else None
    if topology is None or topology in {"memory", "embedded"}:
        raise InvalidIndexURLError(f"not an index URL: {_scheme_hint(url)}")
    if not rest.startswith("//"):
        raise InvalidIndexURLError(f"an index URL of this kind begins with {scheme.lower()}://")
    return scheme.lower(), topology


def _scheme_hint(url: str) -> str:
    """Return what is wrong with the scheme of a URL, without repeating any of it."""
    import difflib  # noqa: PLC0415 for a wrong scheme only

    scheme, separator, _ = url.partition("://")
    if not separator and url in {"memory", "embedded", "off"}:
        return f"did you mean {url}:?"
    if not separator:
        return "it has no scheme: put redis:// before the host, rediss:// if it has TLS, or give embedded: or off"
    scheme = scheme.lower()
    if near := [*_OTHER_SCHEMES.get(scheme, ()), *difflib.get_close_matches(scheme, SCHEMES)]:
        return f"did you mean {near[0]}://?"
    return "give redis://, rediss:// (with TLS), redis+cluster://, redis+sentinel://, unix://, embedded: or off"


_OTHER_SCHEMES = {
    "valkey": ("redis",),
    "valkeys": ("rediss",),
    "http": ("redis",),
    "https": ("rediss",),
    "tcp": ("redis",),
}


def _options(query: str, known: tuple[str, ...]) -> dict[str, str]:
    """Read the options; an unknown or repeated one is an error."""
    try:
        pairs = parse_qsl(query, strict_parsing=True, keep_blank_values=True) if query else []
    except ValueError:
        raise InvalidIndexURLError(f"the index URL has options that are not name=value; {_HINT}") from None
    options: dict[str, str] = {}
    for name, value in pairs:
        if name not in known or name in options:
            what = "twice there" if name in known else _advice(name, known)
            raise InvalidIndexURLError(f"the index URL has an option that is {what}")
        if not value.isprintable():
            raise InvalidIndexURLError("the index URL has an option with a character that does not print")
        options[name] = value
    return options


def _advice(name: str, known: tuple[str, ...]) -> str:
    """Return advice on an unknown option, without repeating it."""
    import difflib  # noqa: PLC0415 for a wrong name only

    close = [_REDIS_PY[name]] if _REDIS_PY.get(name) in known else difflib.get_close_matches(name, known, 1, 0.8)
    if close:
        return f"called {close[0]} here"
    return f"not one of {', '.join(sorted(known))}, which this kind of URL has; {_HINT}"


def _read_from(options: Mapping[str, str], topology: Topology) -> ReadFrom:
    choices: dict[str, ReadFrom] = {"master": "master", "replica": "replica", "nearest": "nearest"}
    if topology == "server":  # its replicas stand in the URL
        del choices["replica"]
    return _choice(options, "read_from", choices, "master")


def _preference(options: Mapping[str, str], read_from: ReadFrom) -> str:
    prefer = options.get("prefer", "")
    if prefer and read_from != "nearest":
        raise InvalidIndexURLError("the index URL's option prefer has an effect only with read_from=nearest")
    return prefer.lower()


def _nodes(hosts: str, topology: Topology, read_from: ReadFrom) -> tuple[Node, ...]:
    if topology == "server" and read_from != "nearest":
        if "," in hosts:
            raise InvalidIndexURLError(
                "the index URL names several servers: redis+cluster:// and redis+sentinel:// take a list, and "
                "redis:// a primary and its replicas with read_from=nearest"
            )
        return (_node(hosts or "localhost", 6379),)
    if not hosts and topology != "server":
        raise InvalidIndexURLError(
            "the index URL names no server: redis+cluster://HOST:PORT,HOST:PORT or "
            "redis+sentinel://HOST:PORT,HOST:PORT/SERVICE"
        )
    return tuple(
        _node(host, 26379 if topology == "sentinel" else 6379) for host in (hosts or "localhost").split(",")
    )


def _node(text: str, default: int) -> Node:
    found = _HOST.fullmatch(text)
    if found is None:
        raise InvalidIndexURLError(f"the index URL has a host that cannot be read; {_HINT}")
    given = found["port"]
    port = decimal(given, digits=5) if given else default
    if port is None or not 0 < port <= _PORT_MAX:
        raise InvalidIndexURLError(f"the index URL has a port that is no number from 1 to 65535; {_HINT}")
    host = (found["six"] or found["name"] or ("localhost" if given else "")).lower()
    if not found["six"] and not _is_host_name(host):
        raise InvalidIndexURLError(f"the index URL has a host that is no host name; {_HINT}")
    return host, port


def _is_host_name(host: str) -> bool:
    return len(host) <= _HOST_MAX and all(
        0 < len(label) <= _LABEL_MAX and not any(c.isspace() or not c.isprintable() or c in "%@\\" for c in label)
        for label in host.removesuffix(".").split(".")
    )


def _socket(host: str, path: str) -> str:
    path = unquote(path)
    if host or path in {"", "/"}:
        raise InvalidIndexURLError("a unix:// index URL needs an absolute path: unix:///run/valkey.sock")
    if not path.isprintable():
        raise InvalidIndexURLError("the path of a unix:// index URL has a character that no path may have")
    return path


def _service(path: str) -> str:
    service = unquote(path)
    if not service:
        raise InvalidIndexURLError(
            "the index URL names no service: give the name that the sentinels know the master by, "
            "redis+sentinel://HOST:PORT/SERVICE"
        )
    if "/" in service or not service.isprintable() or " " in service:
        raise InvalidIndexURLError(
            f"the index URL's service is no name; a database is given as ?db=NUMBER; {_HINT}"
        )
    return service


def _database(options: Mapping[str, str], path: str, topology: Topology) -> int:
    number = decimal(options.get("db", "0"), digits=_DATABASE_DIGITS)
    if number is None:
        raise InvalidIndexURLError("the index URL's option db is no database number")
    if topology in {"socket", "sentinel"} or not path:
        return number
    named = decimal(path, digits=_DATABASE_DIGITS)
    if named is None:
        raise InvalidIndexURLError(f"the index URL has a path that is no database number, as in /0; {_HINT}")
    if "db" in options and named != number:
        raise InvalidIndexURLError("the index URL has a database number in its path and another as an option")
    if topology == "cluster" and named:
        raise InvalidIndexURLError("a Cluster has no database but 0: leave the number out of the index URL")
    return named


def _login(options: Mapping[str, str], prefix: str) -> Login:
    def file(name: str) -> Path | None:
        given = options.get(f"{prefix}{name}_file")
        if given == "":
            raise InvalidIndexURLError(f"the index URL's option {prefix}{name}_file names no file")
        if given and options.get(f"{prefix}{name}"):
            raise InvalidIndexURLError(f"the index URL has a {prefix}{name} and a {prefix}{name}_file: give one")
        return Path(given) if given else None

    return Login(
        username=options.get(f"{prefix}username", ""),
        password=options.get(f"{prefix}password", ""),
        username_file=file("username"),
        password_file=file("password"),
    )


def _tls(options: Mapping[str, str]) -> Tls:
    files = {name: Path(options[name]) for name in ("ca_file", "cert_file", "key_file") if options.get(name)}
    if "key_file" in files and "cert_file" not in files:
        raise InvalidIndexURLError("the index URL has a key_file without the cert_file that it is for")
    trusts = _choice(options, "check_certificate", _TRUTH, True)
    return Tls(
        ca_file=files.get("ca_file"),
        cert_file=files.get("cert_file"),
        key_file=files.get("key_file"),
        check_hostname=trusts and _choice(options, "check_hostname", _TRUTH, True),
        check_certificate=trusts,
    )


def _choice(options: Mapping[str, str], name: str, choices: Mapping[str, T], default: T) -> T:
    if name not in options:
        return default
    found = choices.get(options[name].lower())
    if found is None:
        raise InvalidIndexURLError(f"the index URL's option {name} is none of {', '.join(choices)}")
    return found
