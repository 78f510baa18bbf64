"""Digests and descriptors (image specification, descriptor.md), and the supported media types."""

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import field
from typing import Any, Protocol, Self

from crossmount._arguments import kind_of
from crossmount._dataclass import dataclass
from crossmount.errors import InvalidDigestError, InvalidManifestError

_GRAMMAR = {
    "sha256": re.compile(r"sha256:[a-f0-9]{64}"),
    "sha512": re.compile(r"sha512:[a-f0-9]{128}"),
}


class Hasher(Protocol):
    """A hash of `hashlib`."""

    def update(self, data: bytes | bytearray | memoryview, /) -> None:
        """Add bytes."""
        ...

    def hexdigest(self) -> str:
        """Return the hash of the added bytes in lower-case hex."""
        ...

    def copy(self) -> Self:
        """Return another hash with the same bytes."""
        ...


class Digest(str):
    """A valid digest, `sha256:<64 hex>` or `sha512:<128 hex>`, as a string.

    Raises:
        InvalidDigestError: the text is not a digest.
    """

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        """Check `text` against the grammar of its algorithm."""
        if not isinstance(text, str):
            raise InvalidDigestError(f"not a digest: {kind_of(text)}: give text, sha256:<64 hex>")
        grammar = _GRAMMAR.get(text[:6])
        if grammar is None or not grammar.fullmatch(text):
            raise InvalidDigestError(
                f"not a digest: {_shown(text)}: give sha256:<64 lower-case hex> or sha512:<128 lower-case hex>"
            )
        return super().__new__(cls, text)

    @classmethod
    def of(cls, data: bytes, *, algorithm: str = "sha256") -> Self:
        """Return the digest of `data`."""
        return cls(f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}")

    @property
    def algorithm(self) -> str:
        """`sha256` or `sha512`."""
        return self[:6]

    @property
    def encoded(self) -> str:
        """The hex part: a blob's file name in an image layout."""
        return self[7:]

    def hasher(self) -> Hasher:
        """Return a new hash of this digest's algorithm."""
        return hashlib.new(self.algorithm)

    def matches(self, hasher: Hasher) -> bool:
        """Return whether the bytes added to `hasher` have this digest."""
        return hasher.hexdigest() == self.encoded


def as_digest(given: str) -> Digest:
    """Return a digest.

    Raises:
        InvalidDigestError: it is no digest.
    """
    return given if type(given) is Digest else Digest(given)


def as_digests(given: Iterable[str]) -> list[Digest]:
    """Return digests, each once, in the same order; one text is one digest.

    Raises:
        InvalidDigestError: one is no digest, or they cannot be iterated over.
    """
    if isinstance(given, str) or not isinstance(given, Iterable):
        return [as_digest(given)]
    return list(dict.fromkeys(map(as_digest, given)))


def _shown(text: str) -> str:
    """Return untrusted text quoted and shortened for a message of one line."""
    return repr(text if len(text) <= 100 else text[:100] + "…")


OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"

MANIFEST_TYPES = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
INDEX_TYPES = frozenset({OCI_INDEX, DOCKER_LIST})
BUILD_CACHE = "application/vnd.buildkit.cacheconfig.v0"
"""The config of a build cache of BuildKit, which is an index of blobs unless `image-manifest=true` was given."""

_BLOB_TYPES = (
    BUILD_CACHE,
    "application/vnd.oci.image.config.",
    "application/vnd.oci.image.layer.",
    "application/vnd.docker.container.image.",
    "application/vnd.docker.image.rootfs.",
)
ACCEPT = ", ".join((OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST))

REF_NAME = "org.opencontainers.image.ref.name"

_SIZE_MAX = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Descriptor:
    """The address of some content.

    Attributes:
        media_type: the content's type.
        digest: its digest.
        size: its size in bytes.
        urls: other places of the content; never followed, they only mark a foreign layer.
        annotations: the descriptor's annotations.
    """

    media_type: str
    digest: Digest
    size: int
    urls: tuple[str, ...] = ()
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)

    @classmethod
    def from_json(cls, document: object, *, where: str) -> Self:
        """Check one descriptor of a manifest or an index.

        Args:
            document: the decoded JSON.
            where: the place of the descriptor, for errors.

        Raises:
            InvalidManifestError: a property is missing, or breaks its grammar.
        """
        if not isinstance(document, dict):
            raise InvalidManifestError(f"{where}: a descriptor must be a JSON object")
        media_type, size = document.get("mediaType"), document.get("size")
        if not isinstance(media_type, str) or not media_type:
            raise InvalidManifestError(f"{where}: a descriptor lacks its mediaType")
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= _SIZE_MAX:
            raise InvalidManifestError(f"{where}: a descriptor's size must be a number of bytes, not {size!r:.40}")
        try:
            digest = Digest(str(document.get("digest", "")))
        except InvalidDigestError as error:
            raise InvalidManifestError(f"{where}: {error}") from None
        return cls(
            media_type, digest, size, _strings(document.get("urls")), _string_map(document.get("annotations"))
        )

    @property
    def is_index(self) -> bool:
        """Whether this is an image index or a manifest list."""
        return self.media_type in INDEX_TYPES

    @property
    def is_manifest(self) -> bool:
        """Whether this is an image manifest."""
        return self.media_type in MANIFEST_TYPES

    @property
    def is_blob(self) -> bool:
        """Whether this is a config or a layer by its type; one of a type that is not known may be either."""
        return self.media_type.startswith(_BLOB_TYPES)


def _strings(value: Any) -> tuple[str, ...]:
    return tuple(item for item in value if isinstance(item, str)) if isinstance(value, list) else ()


def _string_map(value: Any) -> Mapping[str, str]:
    return {k: v for k, v in value.items() if isinstance(v, str)} if isinstance(value, dict) else {}


def each_once(
    descriptors: Iterable[Descriptor], *, disagree: Callable[[Descriptor, int], Exception]
) -> tuple[Descriptor, ...]:
    """Return the first descriptor of each digest, in order.

    Args:
        descriptors: the same digest may come several times.
        disagree: makes the error to raise for a descriptor whose size is not the one (in bytes) that came first.
    """
    found: dict[Digest, Descriptor] = {}
    for descriptor in descriptors:
        first = found.setdefault(descriptor.digest, descriptor)
        if first.size != descriptor.size:
            raise disagree(descriptor, first.size)
    return tuple(found.values())
