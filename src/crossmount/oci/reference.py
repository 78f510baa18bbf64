"""Registries, repositories and references (distribution specification, "Pulling manifests").

All spellings of one registry give one value: lower case, no default port, compressed IPv6 addresses, and
`docker.io` for Docker Hub's three names. A one-word repository on Docker Hub is under `library/`.
"""

import ipaddress
import re
from dataclasses import field, replace
from typing import Protocol, Self

from crossmount._arguments import kind_of
from crossmount._dataclass import dataclass
from crossmount._secrets import without_userinfo
from crossmount.errors import InvalidReferenceError
from crossmount.oci.descriptor import Digest

DOCKER_HUB = "docker.io"
DEFAULT_TAG = "latest"
_DOCKER_HUB_NAMES = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})
_DOCKER_HUB_ADDRESS = "registry-1.docker.io"
_DEFAULT_PORTS = frozenset({80, 443})

_WORD = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_NAME = re.compile(rf"{_WORD}(?:/{_WORD})*")
_NAME_MAX = 255
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")
_HOST = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*")
_AUTHORITY = re.compile(r"(?P<host>\[[^\[\]]*\]|[^:\[\]]+)(?::(?P<port>[0-9]{1,5}))?", re.ASCII)
_REFERENCE_MAX = 4096


@dataclass(frozen=True, slots=True, order=True)
class Repository:
    """A repository on a registry.

    Attributes:
        registry: the registry's normalised name, which is compared and is a part of the index's keys.
        name: the repository's name on the registry, like `team/app`.
        address: `host[:port]` of the registry for connections; not compared.
    """

    registry: str
    name: str
    address: str = field(default="", compare=False, repr=False)

    def __post_init__(self) -> None:
        """Normalise the registry, and a name on Docker Hub, and check both grammars."""
        if not isinstance(self.name, str):
            raise InvalidReferenceError(f"not a repository name: {kind_of(self.name)}: give text")
        registry, address = _normalise(self.address or self.registry)
        if self.address and registry != self.registry:
            raise InvalidReferenceError(f"address {self.address!r} is not of registry {self.registry!r}")
        object.__setattr__(self, "registry", registry)
        object.__setattr__(self, "address", address)
        if registry == DOCKER_HUB and self.name and "/" not in self.name:
            object.__setattr__(self, "name", f"library/{self.name}")
        if not is_repository_name(self.name):
            raise InvalidReferenceError(
                f"not a repository name: {without_userinfo(self.name)[:300]!r}: lower-case words of a-z 0-9 "
                "joined by . _ - and /"
            )

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `registry/name`; without a registry it is on Docker Hub, as in all clients.

        Raises:
            InvalidReferenceError: `text` has a tag or a digest, or breaks the grammar.
        """
        reference = Reference.parse(text)
        if reference.tag or reference.digest:
            raise InvalidReferenceError(f"{text[:300]!r} has a tag or a digest: give the repository alone")
        return cls(reference.registry, reference.name, reference.repository.address)

    def sibling(self, name: str) -> "Repository":
        """Return another repository on the same registry. This is fast, because nothing is normalised again.

        Args:
            name: a name that `is_repository_name` accepts.
        """
        other = object.__new__(Repository)
        object.__setattr__(other, "registry", self.registry)
        object.__setattr__(other, "name", name)
        object.__setattr__(other, "address", self.address)
        return other

    @classmethod
    def on(cls, registry: "str | Located") -> "Repository":
        """Return some repository on a registry.

        Args:
            registry: the registry's name, or a repository or reference on it.

        Raises:
            InvalidReferenceError: `registry` names no registry.
        """
        if isinstance(registry, str):
            return cls(registry, "any")
        found = getattr(registry, "repository", None)
        if isinstance(found, Repository):
            return found
        raise InvalidReferenceError(f"not a registry: {kind_of(registry)}: give host or host:port as text")

    @property
    def repository(self) -> "Repository":
        """This repository; a `Reference` has the same property."""
        return self

    def __str__(self) -> str:
        return f"{self.registry}/{self.name}"

    def __hash__(self) -> int:  # sets of sources are everywhere, and this is faster than a dataclass's
        return hash((self.registry, self.name))


class Located(Protocol):
    """A `Repository` or a `Reference`."""

    @property
    def repository(self) -> Repository:
        """The repository."""
        ...


@dataclass(frozen=True, slots=True)
class Reference:
    """A repository with a tag, a digest, both or none."""

    repository: Repository
    tag: str | None = None
    digest: Digest | None = None

    def __post_init__(self) -> None:
        """Check the tag's grammar."""
        if self.tag is not None and not isinstance(self.tag, str):
            raise InvalidReferenceError(f"not a tag: {kind_of(self.tag)}: give text")
        if self.tag is not None and not is_tag(self.tag):
            raise InvalidReferenceError(
                f"not a tag: {self.tag[:200]!r}: at most 128 of A-Z a-z 0-9 . _ - and no leading . or -"
            )

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `[registry/]name[:tag][@digest]`.

        Raises:
            InvalidReferenceError, InvalidDigestError: `text` breaks the grammar.
        """
        if not isinstance(text, str):
            raise InvalidReferenceError(f"not a reference: {kind_of(text)}: give text, or a Reference")
        if not text or len(text) > _REFERENCE_MAX:
            raise InvalidReferenceError(
                "not a reference: it is empty" if not text else "not a reference: it is too long"
            )
        shown = without_userinfo(text)  # never repeated: errors end in logs that many can read
        if shown != text:
            raise InvalidReferenceError(
                f"not a reference: {shown[:300]!r}: leave user:password@ out, and log in (docker login) instead"
            )
        scheme, is_url, after = text.partition("://")
        if is_url:
            raise InvalidReferenceError(
                f"not a reference: {text[:300]!r}: leave {scheme[:20]}:// out: {after[:280]}"
            )
        rest, at, digest_text = text.partition("@")
        digest = Digest(digest_text) if at else None
        registry, name = _split_registry(rest)
        if registry == DOCKER_HUB and _names_a_registry(rest):
            raise InvalidReferenceError(
                f"not a reference: {text[:300]!r}: a registry and no repository: {rest[:200]}/NAME"
            )
        name, colon, tag = name.partition(":")
        try:
            canonical, address = _normalise(registry)
            return cls(Repository(canonical, name, address), tag if colon else None, digest)
        except InvalidReferenceError as error:
            raise InvalidReferenceError(f"not a reference: {text[:300]!r}: {error}") from None

    @property
    def registry(self) -> str:
        """The registry, normalised."""
        return self.repository.registry

    @property
    def name(self) -> str:
        """The repository's name on its registry."""
        return self.repository.name

    @property
    def target(self) -> str | None:
        """The last part of a manifest's URL: the digest if there is one, else the tag."""
        return self.digest or self.tag

    def with_tag(self, tag: str) -> "Reference":
        """Return this reference with another tag."""
        return replace(self, tag=tag)

    def or_latest(self) -> "Reference":
        """Return this reference, with the tag `latest` if it has neither tag nor digest."""
        return self.with_tag(DEFAULT_TAG) if self.target is None else self

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.repository}{tag}{digest}"


def as_repository(given: str | Located) -> Repository:
    """Return a repository, which text names with its registry: `registry.example/team/app`.

    Raises:
        InvalidReferenceError: it names no repository.
    """
    if isinstance(given, Repository):
        return given
    if isinstance(given, str):
        return Repository.parse(given)
    found = getattr(given, "repository", None)
    if isinstance(found, Repository):
        return found
    raise InvalidReferenceError(
        f"not a repository: {kind_of(given)}: give REGISTRY/NAME, a Repository or a Reference"
    )


def as_reference(given: str | Located) -> Reference:
    """Return a reference; that of a repository has neither a tag nor a digest.

    Raises:
        InvalidReferenceError, InvalidDigestError: it names no image.
    """
    if isinstance(given, Reference):
        return given
    return Reference.parse(given) if isinstance(given, str) else Reference(as_repository(given))


def referrers_tag(digest: Digest) -> str:
    """Return the tag under which a manifest's referrers are listed (specification, "Referrers Tag Schema")."""
    return f"{digest.algorithm}-{digest.encoded[:64]}"


def is_repository_name(name: str) -> bool:
    """Return whether `name` is a repository name by the distribution specification's grammar."""
    return len(name) <= _NAME_MAX and _NAME.fullmatch(name) is not None


def is_tag(tag: str) -> bool:
    """Return whether `tag` is a tag by the distribution specification's grammar."""
    return _TAG.fullmatch(tag) is not None


def is_loopback(host: str) -> bool:
    """Return whether a host's name or address is this machine's own: `localhost`, `127.0.0.1`, `[::1]`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def normalise_registry(text: str) -> str:
    """Return the normalised name of a registry.

    Raises:
        InvalidReferenceError: `text` is not `host[:port]`.
    """
    return _normalise(text)[0]


def _split_registry(text: str) -> tuple[str, str]:
    """Split off a leading registry, by the rule that all clients use; without one it is Docker Hub."""
    first, slash, rest = text.partition("/")
    is_registry = slash and (any(c in first for c in ".:[") or first.lower() == "localhost")
    return (first, rest) if is_registry else (DOCKER_HUB, text)


def _names_a_registry(text: str) -> bool:
    """Return whether a text without a slash looks like a registry without a repository."""
    host, _, port = text.partition(":")
    return text.startswith("[") or ("/" not in text and port.isdigit() and (host == "localhost" or "." in host))


def _normalise(authority: str) -> tuple[str, str]:
    """Return the registry's normalised name, and its `host[:port]` for connections."""
    if not isinstance(authority, str):
        raise InvalidReferenceError(f"not a registry: {kind_of(authority)}: give host[:port] as text")
    match = _AUTHORITY.fullmatch(authority)
    if match is None or not authority.isascii():  # lower() turns some other letters into ASCII letters
        raise InvalidReferenceError(
            f"not a registry: {without_userinfo(authority)[:300]!r}: give host or host:port"
        )
    host, port = _normalise_host(match["host"].lower()), match["port"]
    if port is not None and not 0 < int(port) < 65536:
        raise InvalidReferenceError(f"not a registry: {authority!r}: the port is out of range")
    suffix = f":{int(port)}" if port is not None else ""
    if host in _DOCKER_HUB_NAMES and suffix in {"", ":443"}:
        return DOCKER_HUB, _DOCKER_HUB_ADDRESS
    if port is not None and int(port) not in _DEFAULT_PORTS:
        return host + suffix, host + suffix
    return DOCKER_HUB if host in _DOCKER_HUB_NAMES else host, host + suffix


def _normalise_host(host: str) -> str:
    if host.startswith("["):
        if "%" in host:
            raise InvalidReferenceError(f"not a registry: {host[:300]!r}: a zone means nothing to another host")
        try:
            address = ipaddress.IPv6Address(host[1:-1])
        except ipaddress.AddressValueError:
            raise InvalidReferenceError(f"not a registry: {host[:300]!r} is not an IPv6 address") from None
        mapped = address.ipv4_mapped  # Python 3.13 writes these in another way than earlier ones
        return f"[::ffff:{mapped}]" if mapped else f"[{address.compressed}]"
    if len(host) > _NAME_MAX or not _HOST.fullmatch(host):
        raise InvalidReferenceError(f"not a registry: {host[:300]!r} is not a host name")
    return host
