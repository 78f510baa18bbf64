"""What a proxy is made with: values."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import httpx

from crossmount.errors import InvalidInputError
from crossmount.fleet import Patience
from crossmount.oci import Repository
from crossmount.oci.manifest import MANIFEST_BYTES_MAX
from crossmount.registry import ClientOptions

_PATTERN = re.compile(r"(?:[a-z0-9._/*-]|\[[a-z0-9._-]+\]|\?)+")

HOLD_SECONDS = 10.0
"""How long a HEAD is held: the shortest time-out known of a client that waits for an answer is 20 s (Jib)."""


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """What callers are held to.

    Attributes:
        connections: at once, all callers together.
        header_bytes: a request's line and headers.
        manifest_bytes: a manifest.
        spool_bytes: uploads on local disk, all together.
        idle: seconds without a byte in the middle of a request or an answer.
        header_seconds: from a connection's or a request's first byte to the end of its headers.
        keep_alive: seconds that a connection may rest between requests.
        grace: seconds that a stop waits for uploads under way.
        uploads: spooled uploads that are sent to the registry at once; those at their clients' pace are apart.
    """

    connections: int = 1024
    header_bytes: int = 32 * 1024
    manifest_bytes: int = MANIFEST_BYTES_MAX
    spool_bytes: int = 8 * 1024**3
    idle: float = 60.0
    header_seconds: float = 15.0
    keep_alive: float = 75.0
    grace: float = 30.0
    uploads: int = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxySettings:
    """One proxy.

    Attributes:
        upstream: the registry's URL: scheme, host and port.
        host: the address to listen on.
        port: the port; 0 lets the system choose.
        auth: whose rights count: each caller's own, or the proxy's.
        spool: a folder for uploads whose digest comes last; None sends them straight through.
        wait: seconds that an upload waits at most for another's of the same layer; 0 never.
        hold: seconds that a HEAD is held at most while another uploads the layer; 0 never.
        allow_sources: patterns of repositories that may be mounted from; none means all.
        public_url: what callers call the proxy, where that differs from the Host that they send.
        tls_cert: a PEM file of the certificate, for https.
        tls_key: a PEM file of its key.
        htpasswd: a file of callers and their passwords (bcrypt), for `service`.
        tokens: a file of bearer tokens, for `service`.
        events_secret: a file of secrets that the registry shows with its events; None takes no events.
        options: how to reach the registry.
    """

    upstream: str
    host: str = "127.0.0.1"
    port: int = 5000
    auth: Literal["client", "service"] = "client"
    spool: Path | None = None
    wait: float = Patience().limit
    hold: float = HOLD_SECONDS
    allow_sources: tuple[str, ...] = ()
    public_url: str | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    htpasswd: Path | None = None
    tokens: Path | None = None
    events_secret: Path | None = None
    options: ClientOptions = field(default_factory=ClientOptions)
    limits: ServerLimits = field(default_factory=ServerLimits)

    def base(self) -> httpx.URL:
        """Return the registry's URL.

        Raises:
            InvalidInputError: it is not scheme, host and port alone.
        """
        return _plain_url("--upstream", self.upstream)

    def callers_url(self) -> str | None:
        """Return what callers call the proxy, without a slash at its end; None if that is what their Host says.

        Raises:
            InvalidInputError: it is not scheme, host and port alone.
        """
        if self.public_url is None:
            return None
        return str(_plain_url("--public-url", self.public_url)).rstrip("/")

    def check_sources(self) -> None:
        """Check the patterns of repositories that may be mounted from.

        Raises:
            InvalidInputError: one of them can fit no repository.
        """
        registry = self.registry().registry
        for pattern in self.allow_sources:
            if not _PATTERN.fullmatch(pattern) or pattern.startswith(f"{registry}/"):
                raise InvalidInputError(
                    f"--allow-source: {pattern[:200]!r} fits no repository: give a name without the registry, in "
                    "lower case, with * for any text: 'base/*'"
                )

    def registry(self) -> Repository:
        """Return a repository of the registry, which says how it is called and reached."""
        url = self.base()
        authority = url.netloc.decode("ascii")
        return Repository.on(authority)


def _plain_url(option: str, text: str) -> httpx.URL:
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, TypeError) as error:
        raise InvalidInputError(f"{option}: not a URL: {text[:200]!r}") from error
    if url.scheme not in {"http", "https"}:
        raise InvalidInputError(f"{option}: begin with https:// or http://: {text.rpartition('@')[2][:200]!r}")
    if not url.host or url.path not in {"", "/"} or url.userinfo or url.query or url.fragment:
        raise InvalidInputError(
            f"{option}: give https://host[:port], without a path: {str(url.copy_with(userinfo=b''))[:200]!r}"
        )
    return url.copy_with(path="/")
