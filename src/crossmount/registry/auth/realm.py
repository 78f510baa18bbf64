"""Whether a token realm may get the registry's credentials. No I/O.

The other side chooses the realm (oras-go CVE-2026-48978: credentials were sent to any host that it named). Trusted
are the registry's own host, a host on its registrable domain, and hosts that the user trusts by name. There is no
public suffix list here, so the registrable domain is judged narrowly: a wrong refusal costs the user one option.
"""

import enum
import ipaddress
import re
from collections.abc import Collection

import httpx

from crossmount.errors import InvalidAnswerError
from crossmount.registry.http.location import Origin, is_plain

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
