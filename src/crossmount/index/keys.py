"""The one place that names Redis keys.

The digest is the hash tag: all keys of a layer lie in one slot, so a script serves a layer on a Cluster too,
and layers fill the slots evenly. The namespace is what separates tenants and what an ACL pattern grants.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from crossmount.errors import InvalidDigestError, InvalidInputError, InvalidReferenceError
from crossmount.oci import Digest, Repository
from crossmount.oci.reference import normalise_registry

KeyKind = Literal["sources", "flags", "lease", "waiters", "manifest", "other"]

_NAMESPACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


_OF_A_LAYER: dict[str, KeyKind] = {name: name for name in ("flags", "manifest")}
_OF_A_REGISTRY: dict[str, KeyKind] = {name: name for name in ("sources", "lease", "waiters")}


@dataclass(frozen=True, slots=True)
class ParsedKey:
    """What a key is.

    Attributes:
        kind: `other` is no less ours, and about no layer.
        layer: the layer, or the manifest, that it is about.
        registry: the registry that it is about, where it is about one.
    """

    kind: KeyKind
    layer: Digest | None = None
    registry: str = ""


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of one namespace.

    Raises:
        InvalidInputError: the namespace has anything but letters, digits, `_`, `.` and `-`.
    """

    namespace: str = "default"

    def __post_init__(self) -> None:
        """Check the namespace: it must mean nothing to a hash tag or to a pattern."""
        if not _NAMESPACE.fullmatch(self.namespace):
            raise InvalidInputError(
                f"not a namespace: {self.namespace[:100]!r}: give at most 64 letters, digits, _ . -, "
                "a letter or a digit first"
            )

    def sources(self, layer: Digest, registry: str) -> str:
        """Name the set of repositories on `registry` that hold `layer`."""
        return f"crossmount:{self.namespace}:{{{layer}}}:sources:{registry}"

    def flags(self, layer: Digest) -> str:
        """Name the hash of what is known of `layer` itself."""
        return f"crossmount:{self.namespace}:{{{layer}}}:flags"

    def lease(self, layer: Digest, registry: str) -> str:
        """Name the string that says who uploads `layer` to `registry` now."""
        return f"crossmount:{self.namespace}:{{{layer}}}:lease:{registry}"

    def waiters(self, layer: Digest, registry: str) -> str:
        """Name the sorted set of those who wait for that upload, by when they last asked (epoch ms)."""
        return f"crossmount:{self.namespace}:{{{layer}}}:waiters:{registry}"

    def all_leases(self) -> str:
        """Return the pattern that the keys of all leases of this namespace match."""
        return f"crossmount:{self.namespace}:{{*}}:lease:*"

    def all_layers(self) -> str:
        """Return the pattern that the keys of flags and of sources match."""
        return f"crossmount:{self.namespace}:{{*}}:[fs]*"

    def all_keys(self) -> str:
        """Return the pattern that all keys of this namespace match."""
        return f"crossmount:{self.namespace}:*"

    def manifest(self, digest: Digest) -> str:
        """Name the string that says which blobs and manifests the manifest `digest` names."""
        return f"crossmount:{self.namespace}:{{{digest}}}:manifest"

    def scan(self, registry: str, scope: str) -> str:
        """Name the hash of how far the unfinished scan of `scope` on `registry` is."""
        return f"crossmount:{self.namespace}:scan:{scope}:{registry}"

    def scan_done(self, run: str) -> str:
        """Name the set of repositories that the scan `run` is done with."""
        return f"crossmount:{self.namespace}:scan:{run}:"

    def scan_tags(self, repository: Repository, run: str) -> str:
        """Name the set of tags that the scan `run` is done with in a repository that it is not done with."""
        return f"crossmount:{self.namespace}:scan:{run}:{repository}"

    def traits(self, registry: str) -> str:
        """Name the hash of what `registry` was seen to do."""
        return f"crossmount:{self.namespace}:registry:{registry}"

    def stats(self, day: str) -> str:
        """Name the hash of how many layers were asked for on a day (`2026-11-24`), and how many were known."""
        return f"crossmount:{self.namespace}:stats:{day}"

    def prune(self, scope: str) -> str:
        """Name the hash of how far a prune that is not finished is."""
        return f"crossmount:{self.namespace}:prune:{scope}"

    def parse(self, key: bytes) -> ParsedKey | None:
        """Say what a key is; None if it is not of this namespace, or only looks like one of ours."""
        text = key.decode("ascii", "replace")
        start = f"crossmount:{self.namespace}:"
        if not text.startswith(start):
            return None
        if text[len(start) : len(start) + 1] != "{":
            return ParsedKey("other")
        name, _, rest = text[len(start) + 1 :].partition("}:")
        word, colon, registry = rest.partition(":")
        try:
            if not colon and word in _OF_A_LAYER:
                return ParsedKey(_OF_A_LAYER[word], Digest(name))
            if word in _OF_A_REGISTRY and _is_normal(registry):
                return ParsedKey(_OF_A_REGISTRY[word], Digest(name), registry)
        except InvalidDigestError:
            pass
        return None


@lru_cache(1024)
def _is_normal(registry: str) -> bool:
    try:
        return normalise_registry(registry) == registry
    except InvalidReferenceError:
        return False
