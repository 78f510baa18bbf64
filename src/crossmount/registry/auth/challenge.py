"""Challenges of registries, and whether the realm that one names may get the registry's credentials. No I/O.

The parser of `WWW-Authenticate` (RFC 9110, 11.6.1) is lenient where registries break the grammar.

The registry chooses the realm (oras-go CVE-2026-48978: credentials were sent to any host that it named). Trusted
are the registry's own host, a host on its registrable domain, and hosts that the user trusts by name. There is no
public suffix list here, so the registrable domain is judged narrowly: a wrong refusal costs the user one option.
"""

import enum
import ipaddress
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import field

import httpx

from crossmount._dataclass import dataclass
from crossmount.errors import InvalidAnswerError
from crossmount.registry.auth.scope import Scope, parse_scopes
from crossmount.registry.http.location import Origin, is_plain

_HEADER_MAX = 8 * 1024
_GAP = re.compile(r"[ \t,]*")
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_TOKEN68 = re.compile(r"[ \t]+[A-Za-z0-9\-._~+/]+=*[ \t]*(?=,|$)")
_PARAMETER = re.compile(
    r"(?P<name>[!#$%&'*+\-.^_`|~0-9A-Za-z]+)[ \t]*=[ \t]*"
    r"(?:\"(?P<quoted>(?:[^\"\\]|\\.)*)\"|(?P<bare>[^\s,\"]*))",
    re.DOTALL,
)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_NEXT = re.compile(r",|$")


@dataclass(frozen=True, slots=True)
class Challenge:
    """One challenge of a server.

    Attributes:
        scheme: in lower case.
        parameters: by name in lower case; of a repeated parameter the first is used.
    """

    scheme: str
    parameters: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Basic:
    """The registry asks for a user name and a password with each request."""


@dataclass(frozen=True, slots=True)
class Bearer:
    """The registry asks for a token, which `realm` issues (distribution project, "Token Authentication").

    Attributes:
        realm: the URL that issues tokens.
        service: the registry's name at the realm.
        scopes: the scopes of the refused request; not compared, because one realm issues all tokens.
        error: why the sent token was refused (`insufficient_scope`, `invalid_token`); not compared.
    """

    realm: str
    service: str
    scopes: tuple[Scope, ...] = field(default=(), compare=False)
    error: str = field(default="", compare=False)


def parse_challenges(header: str) -> list[Challenge]:
    """Return the challenges in one header's value, in order; text outside the grammar is skipped."""
    challenges: list[tuple[str, dict[str, str]]] = []
    for kind, name, value in _pieces(header[:_HEADER_MAX]):
        if kind == "scheme":
            challenges.append((name.lower(), {}))
        elif challenges:
            challenges[-1][1].setdefault(name.lower(), value)
    return [Challenge(scheme, parameters) for scheme, parameters in challenges]


def _pieces(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield `("scheme", name, "")` and `("parameter", name, value)`."""
    at = 0
    while (at := _end(_GAP.match(text, at), at)) < len(text):
        if (parameter := _PARAMETER.match(text, at)) is not None:
            quoted = parameter["quoted"]
            value = parameter["bare"] if quoted is None else _ESCAPE.sub(r"\1", quoted)
            yield "parameter", parameter["name"], value
            at = parameter.end()
        elif (scheme := _TOKEN.match(text, at)) is not None:
            yield "scheme", scheme[0], ""
            # `Negotiate abc==` has one value without a name; no scheme of ours has one
            at = _end(_TOKEN68.match(text, scheme.end()), scheme.end())
        else:
            at = _end(_NEXT.search(text, at + 1), len(text))


def _end(match: "re.Match[str] | None", otherwise: int) -> int:
    return otherwise if match is None else match.end()


def choose(headers: Iterable[str]) -> Bearer | Basic | None:
    """Return the challenge to answer: the first for a token, else one for a password, or None."""
    challenges = [challenge for header in headers for challenge in parse_challenges(header)]
    for challenge in challenges:
        if challenge.scheme == "bearer" and challenge.parameters.get("realm"):
            given = challenge.parameters
            return Bearer(
                realm=given["realm"],
                service=given.get("service", ""),
                scopes=parse_scopes(given.get("scope", "")),
                error=given.get("error", ""),
            )
    return Basic() if any(challenge.scheme == "basic" for challenge in challenges) else None


_SECOND_LEVEL = frozenset(
    {"ac", "co", "com", "edu", "gob", "gov", "go", "id", "info", "mil", "ne", "net", "nom", "or", "org", "sch"}
)
"""Second labels under which countries register domains, as in `co.uk`."""

_COUNTRY_LABEL = 2
_SHORT_LABEL = 3

_SHARED = frozenset(
    {
        "aliyuncs.com",
        "amazonaws.com",
        "appspot.com",
        "azure.com",
        "azurecr.cn",
        "azurecr.io",
        "azurecr.us",
        "azurefd.net",
        "azurewebsites.net",
        "blob.core.windows.net",
        "cloudapp.net",
        "cloudflare.net",
        "cloudflarestorage.com",
        "cloudfront.net",
        "digitaloceanspaces.com",
        "dscloud.me",
        "duckdns.org",
        "dyndns.org",
        "firebaseapp.com",
        "fly.dev",
        "gateway.dev",
        "github.dev",
        "github.io",
        "githubpreview.dev",
        "gitlab.io",
        "gitpod.io",
        "googleapis.com",
        "herokuapp.com",
        "jfrog.io",
        "lambda-url.com",
        "loca.lt",
        "myqnapcloud.com",
        "myshopify.com",
        "netlify.app",
        "ngrok-free.app",
        "ngrok.app",
        "ngrok.dev",
        "ngrok.io",
        "nip.io",
        "no-ip.org",
        "ondigitalocean.app",
        "onrender.com",
        "pages.dev",
        "pkg.dev",
        "r2.dev",
        "railway.app",
        "render.com",
        "replit.dev",
        "run.app",
        "serveo.net",
        "sslip.io",
        "surge.sh",
        "synology.me",
        "trafficmanager.net",
        "trycloudflare.com",
        "ts.net",
        "vercel.app",
        "web.app",
        "windows.net",
        "workers.dev",
        "xip.io",
    }
)
"""Domains whose subdomains have different owners: there only the same host is trusted."""

_KNOWN_PAIRS = (
    (re.compile(r"registry\.hub\.docker\.com"), re.compile(r"auth\.docker\.io")),
    (re.compile(r"(?:.+\.)?scw\.cloud"), re.compile(r"api\.scaleway\.com")),
    (re.compile(r".+\.aliyuncs\.com"), re.compile(r"dockerauth[a-z-]*\.[a-z0-9-]+\.aliyuncs\.com")),
)
"""(registry's host, realm's host) of one owner on two domains."""


class RealmTrust(enum.Enum):
    """How far a realm is trusted."""

    CREDENTIALS = enum.auto()
    """It may get the registry's credentials."""
    ANONYMOUS = enum.auto()
    """It gets requests without credentials only: the host has another owner."""
    NOTHING = enum.auto()
    """It gets no request: that would be a step from https to http."""


def judge_realm(realm: httpx.URL, *, registry: httpx.URL, trusted: Collection[str] = ()) -> RealmTrust:
    """Return how far the realm in a registry's challenge is trusted.

    Args:
        realm: the realm's URL.
        registry: any URL of the registry.
        trusted: hosts (`host` or `host:port`) that the user trusts with this registry's credentials.

    Raises:
        InvalidAnswerError: the realm is no http or https URL, or has a user name.
    """
    if not is_plain(realm):
        raise InvalidAnswerError(f"{registry.host}: its WWW-Authenticate names a realm that is not a plain URL")
    if registry.scheme == "https" and realm.scheme == "http":
        return RealmTrust.NOTHING
    here, there = Origin.of(registry), Origin.of(realm)
    names = {there.host, f"{there.host}:{there.port}"}
    if same_owner(here.host, there.host) or not names.isdisjoint(host.lower().rstrip(".") for host in trusted):
        return RealmTrust.CREDENTIALS
    return RealmTrust.ANONYMOUS


def same_owner(registry: str, realm: str) -> bool:
    """Return whether two host names surely have one owner."""
    if registry == realm:
        return True
    domain = registrable(registry)
    if domain is not None and domain == registrable(realm):
        return True
    return any(of.fullmatch(registry) and at.fullmatch(realm) for of, at in _KNOWN_PAIRS)


def registrable(host: str) -> str | None:
    """Return the domain that a host's owner registered, or None if only the same host can be trusted."""
    labels = host.split(".")
    if len(labels) < 2 or _is_address(host) or "" in labels:
        return None
    if any(host == shared or host.endswith(f".{shared}") for shared in _SHARED):
        return None
    top, second = labels[-1], labels[-2]
    # `example.co.uk`, and to be safe every short label under a country: one label too many is safe
    wide = len(top) == _COUNTRY_LABEL and (second in _SECOND_LEVEL or len(second) <= _SHORT_LABEL)
    count = 3 if wide or second in {"com", "net", "org", "co"} else 2
    return ".".join(labels[-count:]) if len(labels) >= count else None


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True
