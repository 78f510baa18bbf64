"""Descriptors (image specification, descriptor.md) and the supported media types."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from crossmount.errors import InvalidDigestError, InvalidManifestError
from crossmount.oci.digest import Digest

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
