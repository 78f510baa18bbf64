"""Manifests and indexes (image specification, manifest.md and image-index.md): parsed values with their bytes.

An index names further manifests. `ManifestWalk` decides which of them are read next, and how many there may be;
its caller reads them from a layout, a registry or a cache. No I/O.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import field
from functools import partial
from typing import Any, NoReturn, Self

from crossmount._dataclass import dataclass
from crossmount.errors import InvalidManifestError
from crossmount.oci.descriptor import (
    BUILD_CACHE,
    INDEX_TYPES,
    MANIFEST_TYPES,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    Digest,
    each_once,
)

MANIFEST_BYTES_MAX = 4 * 1024 * 1024
"""The largest manifest that a registry must accept (distribution specification, "Pushing Manifests")."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """One manifest or index with its bytes.

    Attributes:
        descriptor: its own type, digest and size.
        content: the exact bytes.
        blobs: config and layers, each digest once, in order. An index has none, unless it is a build cache.
        children: the manifests of an index; nothing for a manifest.
    """

    descriptor: Descriptor
    content: bytes
    blobs: tuple[Descriptor, ...] = ()
    children: tuple[Descriptor, ...] = ()

    @classmethod
    def parse(
        cls, content: bytes, *, media_type: str | None = None, digest: Digest | None = None, where: str
    ) -> Self:
        """Parse the bytes of a manifest or an index.

        Args:
            content: the bytes, at most `MANIFEST_BYTES_MAX`.
            media_type: the type in its descriptor or the Content-Type; without one its own `mediaType` is used.
            digest: the digest that the bytes must have; without one their sha256 is computed.
            where: its name in errors.

        Raises:
            InvalidManifestError: wrong digest, too large, no JSON object, or an unsupported type.
        """
        if len(content) > MANIFEST_BYTES_MAX:
            raise InvalidManifestError(f"{where}: {len(content)} bytes, a manifest may have 4 MiB")
        if digest is not None and Digest.of(content, algorithm=digest.algorithm) != digest:
            raise InvalidManifestError(f"{where}: its bytes do not have the digest {digest}")
        document = _json_object(content, where)
        own_type = document.get("mediaType")
        kind = media_type or (own_type if isinstance(own_type, str) else "") or _guess_type(document)
        if isinstance(own_type, str) and own_type and own_type != kind:
            raise InvalidManifestError(
                f"{where}: it says it is {own_type[:200]!r}, what points at it says {kind!r:.200}"
            )
        _refuse_both(kind, document, where)
        descriptor = Descriptor(kind, digest or Digest.of(content), len(content))
        disagree = partial(_two_sizes, where)
        if descriptor.is_index:
            named = _descriptors(document, "manifests", where)
            blobs = each_once((one for one in named if one.is_blob), disagree=disagree)
            return cls(descriptor, content, blobs, tuple(one for one in named if not one.is_blob))
        if descriptor.is_manifest:
            config = Descriptor.from_json(document.get("config"), where=f"{where}: config")
            layers = _descriptors(document, "layers", where)
            blobs = each_once((config, *layers), disagree=disagree)
            return cls(descriptor, content, blobs)
        raise InvalidManifestError(f"{where}: {_unfollowed(kind, document)}")

    @property
    def is_build_cache(self) -> bool:
        """Whether this is a build cache as BuildKit writes it without `image-manifest=true`: an index of blobs."""
        return self.descriptor.is_index and any(blob.media_type == BUILD_CACHE for blob in self.blobs)


def _json_object(content: bytes, where: str) -> dict[str, Any]:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        raise InvalidManifestError(f"{where}: not JSON: it starts with {content[:24]!r}") from None
    if not isinstance(document, dict):
        raise InvalidManifestError(f"{where}: a manifest must be a JSON object")
    return document


def _refuse_both(kind: str, document: dict[str, Any], where: str) -> None:
    """Refuse a document that other clients could read as the other kind (CVE-2021-41190)."""
    other = ("config", "layers") if kind in INDEX_TYPES else ("manifests",) if kind in MANIFEST_TYPES else ()
    found = [key for key in other if document.get(key)]
    if found:
        raise InvalidManifestError(f"{where}: of type {kind}, and yet it has {found[0]}")


def _guess_type(document: dict[str, Any]) -> str:
    """Return the type of a document without `mediaType`, which OCI documents may omit."""
    if "config" in document or "layers" in document:
        return OCI_MANIFEST
    return OCI_INDEX if "manifests" in document else ""


def _descriptors(document: dict[str, Any], key: str, where: str) -> tuple[Descriptor, ...]:
    items = document.get(key)
    if not isinstance(items, list):
        raise InvalidManifestError(f"{where}: it has no list of {key}")
    return tuple(Descriptor.from_json(item, where=f"{where}: {key}[{i}]") for i, item in enumerate(items))


def _two_sizes(where: str, descriptor: Descriptor, size: int) -> InvalidManifestError:
    return InvalidManifestError(f"{where}: {descriptor.digest} has two sizes, {size} and {descriptor.size}")


def _unfollowed(kind: str, document: dict[str, Any]) -> str:
    if document.get("schemaVersion") == 1:
        return "an image of Docker's schema 1: convert it, for example with skopeo copy --format=oci"
    return f"type {kind[:200]!r} is neither an image manifest nor an image index"


INDEX_DEPTH_MAX = 4
"""How deep indexes may nest; real ones nest once or twice."""

_TOO_DEEP = f"an index in more than {INDEX_DEPTH_MAX} others"


@dataclass(slots=True, kw_only=True)
class ManifestWalk:
    """A walk from some manifests down to everything that indexes name, level by level.

    Call `next_level`, read those manifests, call `add` for each of them, and repeat until a level is empty.

    Attributes:
        limit: how many manifests the walk may read; None is any number.
        exceeded: receives the reason and one manifest when there are more, or when indexes nest too deep. It may
            raise. If it returns, the walk leaves out what is beyond the limit.
        seen: the manifests that were added; the walk asks for none of them.
    """

    limit: int | None
    exceeded: Callable[[str, Digest], None]
    seen: set[Digest] = field(default_factory=set)
    _next: dict[Digest, int] = field(default_factory=dict, init=False)
    _depths: dict[Digest, int] = field(default_factory=dict, init=False)
    _count: int = field(default=0, init=False)

    def want(self, digests: Iterable[Digest], *, depth: int = 0) -> None:
        """Add manifests, which lie below `depth` indexes, to the next level."""
        for digest in digests:
            if self.limit is None or len(self._next) <= self.limit:  # one more shows that there are too many
                self._next.setdefault(digest, depth)

    def add(self, digest: Digest, children: Iterable[Digest]) -> bool:
        """Note that a manifest was read, and which ones it names; return False if it was added before."""
        if digest in self.seen:
            return False
        self.seen.add(digest)
        self._count += digest not in self._depths  # a tag's manifest: no level had it
        self.want(children, depth=self._depths.get(digest, 0) + 1)
        return True

    def next_level(self) -> list[Digest]:
        """Return the manifests to read next, each once; none when the walk has ended."""
        level = [digest for digest in self._next if digest not in self.seen]
        deep = [digest for digest in level if self._next[digest] > INDEX_DEPTH_MAX]
        if deep:
            self.exceeded(_TOO_DEEP, deep[0])
            level = [digest for digest in level if self._next[digest] <= INDEX_DEPTH_MAX]
        if self.limit is not None and self._count + len(level) > self.limit:
            room = max(self.limit - self._count, 0)
            self.exceeded(f"more than {self.limit} manifests", level[room])
            level = level[:room]
        self._count += len(level)
        self._depths, self._next = {digest: self._next[digest] for digest in level}, {}
        return level


def children_first(
    root: Digest, manifests: Mapping[Digest, Manifest], *, exceeded: Callable[[str, Digest], NoReturn]
) -> tuple[Manifest, ...]:
    """Return every manifest of an image once, children before the indexes that name them; the root is the last.

    Args:
        root: the image's own manifest or index.
        manifests: the root and all manifests below it.
        exceeded: raises the error when a manifest is nested too deep. The longest way down counts, which a walk by
            levels does not see: one index may name every member of a chain of indexes.
    """
    ordered: dict[Digest, Manifest] = {}
    heights: dict[Digest, int] = {}

    def enter(digest: Digest, depth: int) -> int:
        """Enter a manifest after its children; return how many levels lie below it."""
        if depth + heights.get(digest, 0) > INDEX_DEPTH_MAX:
            exceeded(_TOO_DEEP, digest)
        if digest not in ordered:
            manifest = manifests[digest]
            heights[digest] = max([enter(child.digest, depth + 1) + 1 for child in manifest.children], default=0)
            ordered[digest] = manifest
        return heights[digest]

    enter(root, 0)
    return tuple(ordered.values())
