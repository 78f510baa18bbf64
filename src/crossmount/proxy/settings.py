"""The settings of a proxy, and of the server that it runs on. Values."""

import re
from dataclasses import field, replace
from pathlib import Path
from typing import Literal

import httpx

from crossmount._dataclass import dataclass
from crossmount._secrets import without_userinfo
from crossmount.errors import InvalidInputError
from crossmount.fleet import Patience
from crossmount.oci import Repository
from crossmount.oci.manifest import MANIFEST_BYTES_MAX
from crossmount.proxy.policy import SOURCE_PATTERN, Policy
from crossmount.registry import ClientOptions

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._:-]*[a-z0-9])?")

PageAccess = Literal["off", "sums", "names"]
"""How much of its page the proxy shows: nothing, sums without names, or everything."""

MountRights = Literal["account", "token"]
"""Whose rights the proxy uses to mount for a token: those of its account, or of the token alone."""

HOLD_SECONDS = 10.0
"""Seconds that a HEAD waits for another's upload. The shortest known time-out of a client is 20 s (Jib)."""


HEADER_SHARE = 32 * 1024
"""The share of the header bytes of each connection if all are busy; a token with many scopes may be longer."""


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """Limits on clients.

    Attributes:
        connections: the most connections at once, of all clients together.
        header_bytes: the most bytes of a request's line and headers. All connections together may have
            `HEADER_SHARE` for each.
        manifest_bytes: the most bytes of a manifest.
        spool_bytes: the most spooled bytes on local disk, of all uploads together.
        idle: seconds without a byte in the middle of a request or an answer.
        header_seconds: seconds from a connection's or a request's first byte to the end of its headers.
        keep_alive: seconds that a connection may be idle between requests.
        grace: seconds that a stop waits for pushes in progress.
        uploads: the most spooled uploads that are sent to the registry at once; relayed uploads do not count.
    """

    connections: int = 1024
    header_bytes: int = 128 * 1024
    manifest_bytes: int = MANIFEST_BYTES_MAX
    spool_bytes: int = 8 * 1024**3
    idle: float = 60.0
    header_seconds: float = 15.0
    keep_alive: float = 75.0
    grace: float = 30.0
    uploads: int = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamSettings:
    """A registry behind the proxy.

    Attributes:
        name: its name in paths, in `?ns=`, in the log and in the metrics; in lower case.
        url: its URL: scheme, host and port.
        allow_sources: patterns of repositories that may be mounted from; empty allows all.
        options: how to reach it.
    """

    name: str
    url: httpx.URL
    allow_sources: tuple[str, ...] = ()
    options: ClientOptions = field(default_factory=ClientOptions)

    @property
    def registry(self) -> Repository:
        """A repository of the registry, for the registry's name and address."""
        return Repository.on(self.url.netloc.decode("ascii"))

    def names(self) -> set[str]:
        """Return the names that a request may use for it, in lower case."""
        registry = self.registry
        return {self.name, self.url.netloc.decode("ascii").lower(), registry.registry.lower()}


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxySettings:
    """The settings of a proxy.

    Attributes:
        upstreams: the registries' URLs (scheme, host and port), each as `URL` or `NAME=URL`. A request that names
            none of several is for the first one.
        host: the address to listen on.
        port: the port; 0 lets the system choose.
        auth: `client` acts with each caller's rights, `service` with the proxy's own.
        mount_rights: with `client`: `account` mounts from whatever the account of a token may read, for the
            address that the token was given to; `token` only from what the token itself allows.
        spool: a folder for uploads whose digest comes last; None relays them at once.
        wait: the most seconds that an upload waits for another's of the same layer; 0 never waits.
        hold: the most seconds that a HEAD waits while another uploads the layer; 0 never waits.
        allow_sources: patterns of repositories that may be mounted from; empty allows all.
        public_url: the proxy's URL for callers, where it differs from the Host that they send.
        tls_cert: a PEM file of the certificate, for https.
        tls_key: a PEM file of its key.
        htpasswd: a file of callers and their passwords (bcrypt), for `service`.
        tokens: a file of bearer tokens, for `service`.
        metrics_listen: an address and a port where the metrics are served, instead of beside everything else.
        page: what the page at `/_crossmount/` shows, if there is one; `sums` has no names.
        events_secret: a file of secrets that the registry sends with its events; None receives no events.
        policy: a policy file (`crossmount.proxy.policy`); None without one.
        options: how to reach the registries.
        limits: limits on clients.
    """

    upstreams: tuple[str, ...]
    host: str = "127.0.0.1"
    port: int = 5000
    auth: Literal["client", "service"] = "client"
    mount_rights: MountRights = "account"
    spool: Path | None = None
    wait: float = Patience().limit
    hold: float = HOLD_SECONDS
    allow_sources: tuple[str, ...] = ()
    public_url: str | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    htpasswd: Path | None = None
    tokens: Path | None = None
    metrics_listen: tuple[str, int] | None = None
    page: PageAccess = "off"
    events_secret: Path | None = None
    policy: Path | None = None
    options: ClientOptions = field(default_factory=ClientOptions)
    limits: ServerLimits = field(default_factory=ServerLimits)

    def upstream_list(self, policy: Policy) -> tuple[UpstreamSettings, ...]:
        """Return the registries of the options, then those of the policy.

        Raises:
            InvalidInputError: there is none, a URL or a pattern is invalid, or two have the same name.
        """
        found = [self._upstream("--upstream", *_split_name(text)) for text in self.upstreams]
        for entry in policy.upstreams:
            made = self._upstream(f"{self.policy}: upstream", entry.name, entry.url)
            options = replace(
                made.options,
                authfile=entry.authfile or made.options.authfile,
                ca_file=entry.ca_file or made.options.ca_file,
                insecure=entry.insecure or made.options.insecure,
            )
            sources = entry.allow_sources or made.allow_sources
            found.append(replace(made, options=options, allow_sources=sources))
        if not found:
            raise InvalidInputError("give a registry: --upstream https://registry.example.com")
        taken: dict[str, str] = {}
        for upstream in found:
            for name in upstream.names():
                if name in taken:
                    raise InvalidInputError(
                        f"--upstream: two registries have the name {name}: give one as NAME={upstream.url}"
                    )
                taken[name] = upstream.name
        names = {upstream.name for upstream in found}
        for number, rule in enumerate(policy.rules, 1):
            if rule.upstream and rule.upstream not in names:
                raise InvalidInputError(
                    f"{self.policy}: rule {number}: no upstream has the name {rule.upstream!r}: "
                    f"there are {', '.join(sorted(names))}"
                )
        return tuple(found)

    def _upstream(self, where: str, name: str, url: str) -> UpstreamSettings:
        parsed = _plain_url(where, url)
        name = name.lower() or parsed.netloc.decode("ascii").lower()
        if not _NAME.fullmatch(name):
            raise InvalidInputError(f"{where}: {name[:100]!r} is no name: use a-z 0-9 . _ -")
        options = replace(
            self.options,
            plain_http=parsed.scheme == "http",
            max_connections=max(self.options.max_connections, self.limits.connections),
        )
        made = UpstreamSettings(name=name, url=parsed, allow_sources=self.allow_sources, options=options)
        for pattern in made.allow_sources:
            if not SOURCE_PATTERN.fullmatch(pattern) or pattern.startswith(f"{made.registry.registry}/"):
                raise InvalidInputError(
                    f"--allow-source: {pattern[:200]!r} fits no repository: give a name without the registry, in "
                    "lower case, with * for any text: 'base/*'"
                )
        return made

    def files(self) -> tuple[Path | None, ...]:
        """Return the files that are read again when they change."""
        own = (self.htpasswd, self.tokens, self.tls_cert, self.tls_key, self.events_secret, self.policy)
        return (*own, self.options.authfile)

    def callers_url(self) -> str | None:
        """Return the proxy's URL for callers, without a slash at its end; None if their Host header names it.

        Raises:
            InvalidInputError: it has other parts than scheme, host and port.
        """
        if self.public_url is None:
            return None
        return str(_plain_url("--public-url", self.public_url)).rstrip("/")


def _split_name(text: str) -> tuple[str, str]:
    """Return the name, empty without one, and the URL of `[NAME=]URL`."""
    name, equals, url = text.partition("=")
    return (name, url) if equals and "/" not in name else ("", text)


def _plain_url(option: str, text: str) -> httpx.URL:
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, TypeError) as error:
        raise InvalidInputError(f"{option}: not a URL: {without_userinfo(text)[:200]!r}") from error
    if url.scheme not in {"http", "https"}:
        raise InvalidInputError(f"{option}: begin with https:// or http://: {without_userinfo(text)[:200]!r}")
    if not url.host or url.path not in {"", "/"} or url.userinfo or url.query or url.fragment:
        raise InvalidInputError(
            f"{option}: give https://host[:port], without a path: {str(url.copy_with(userinfo=b''))[:200]!r}"
        )
    return url.copy_with(path="/")
