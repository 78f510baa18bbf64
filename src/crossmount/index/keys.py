"""The one place that names Redis keys.

The digest is the hash tag: all keys of a layer are in one slot, so that a script can use them on a Cluster too,
and layers are spread evenly over the slots. The namespace separates tenants; an ACL pattern can grant one
namespace.
"""

import re
from datetime import UTC, date, datetime
from functools import lru_cache
from typing import Literal

from crossmount._dataclass import dataclass
from crossmount.errors import InvalidDigestError, InvalidInputError, InvalidReferenceError
from crossmount.oci import Digest, Repository
from crossmount.oci.reference import normalise_registry

KeyKind = Literal["sources", "deleted", "flags", "must-mount", "lease", "waiters", "manifest", "other"]

SCANNED_SECONDS = 400 * 24 * 3600
"""How long it is known that a registry was scanned; its age follows from what is left of that."""

STATS_SECONDS = 14 * 24 * 3600
"""How long the counts of a day are stored."""

_NAMESPACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


_OF_A_LAYER: dict[str, KeyKind] = {name: name for name in ("flags", "must-mount", "manifest")}
_OF_A_REGISTRY: dict[str, KeyKind] = {name: name for name in ("sources", "deleted", "lease", "waiters")}


@dataclass(frozen=True, slots=True)
class ParsedKey:
    """The parts of a key.

    Attributes:
        kind: `other` is a key of this namespace without a layer.
        layer: the layer, or the manifest.
        registry: the registry; empty if the key has none.
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
        """Check the namespace: it must not contain characters of hash tags or patterns."""
        given: object = self.namespace
        if not (isinstance(given, str) and _NAMESPACE.fullmatch(given)):
            raise InvalidInputError(
                f"not a namespace: {str(self.namespace)[:100]!r}: give at most 64 letters, digits, _ . -, "
                "a letter or a digit first"
            )

    def sources(self, layer: Digest, registry: str) -> str:
        """Return the key of the set of repositories on `registry` that hold `layer`."""
        return f"crossmount:{self.namespace}:{{{layer}}}:sources:{registry}"

    def deleted(self, layer: Digest, registry: str) -> str:
        """Return the key of the set of repositories on `registry` that clients of proxies deleted `layer` from."""
        return f"crossmount:{self.namespace}:{{{layer}}}:deleted:{registry}"

    def flags(self, layer: Digest) -> str:
        """Return the key of the hash of facts about `layer` itself."""
        return f"crossmount:{self.namespace}:{{{layer}}}:flags"

    def must_mount(self, layer: Digest) -> str:
        """Return the key of the hash of the must-mount flag of `layer`, which operators write and pushers read."""
        return f"crossmount:{self.namespace}:{{{layer}}}:must-mount"

    def lease(self, layer: Digest, registry: str) -> str:
        """Return the key of the string with the lease of the upload of `layer` to `registry`."""
        return f"crossmount:{self.namespace}:{{{layer}}}:lease:{registry}"

    def waiters(self, layer: Digest, registry: str) -> str:
        """Return the key of the sorted set of waiters for that upload, by their last call (epoch milliseconds)."""
        return f"crossmount:{self.namespace}:{{{layer}}}:waiters:{registry}"

    def wake(self, layer: Digest, registry: str) -> str:
        """Return the channel on which waiters for that upload are woken; it is in the layer's slot."""
        return f"crossmount:{self.namespace}:{{{layer}}}:wake:{registry}"

    def all_leases(self) -> str:
        """Return the pattern of all leases of this namespace."""
        return f"crossmount:{self.namespace}:{{*}}:lease:*"

    def all_layers(self) -> str:
        """Return the pattern of all flags, must-mount flags and sets of sources of this namespace."""
        return f"crossmount:{self.namespace}:{{*}}:[fsm][lou]*"

    def all_flags(self) -> str:
        """Return the pattern of the flags of all layers of this namespace."""
        return f"crossmount:{self.namespace}:{{*}}:flags"

    def all_keys(self) -> str:
        """Return the pattern of all keys of this namespace."""
        return f"crossmount:{self.namespace}:*"

    def manifest(self, digest: Digest) -> str:
        """Return the key of the string that lists the blobs and manifests of the manifest `digest`."""
        return f"crossmount:{self.namespace}:{{{digest}}}:manifest"

    def scan(self, registry: str, scope: str) -> str:
        """Return the key of the hash with the progress of the unfinished scan of `scope` on `registry`."""
        return f"crossmount:{self.namespace}:scan:{scope}:{registry}"

    def scanned(self, registry: str) -> str:
        """Return the key of the string that lives for a while after the last finished scan of `registry`."""
        return f"crossmount:{self.namespace}:scanned:{registry}"

    def scan_done(self, run: str) -> str:
        """Return the key of the set of repositories that the scan `run` has finished."""
        return f"crossmount:{self.namespace}:scan:{run}:"

    def scan_tags(self, repository: Repository, run: str) -> str:
        """Return the key of the set of tags that the scan `run` has finished in an unfinished repository."""
        return f"crossmount:{self.namespace}:scan:{run}:{repository}"

    def traits(self, registry: str) -> str:
        """Return the key of the hash of the traits of `registry`."""
        return f"crossmount:{self.namespace}:registry:{registry}"

    def same_registry(self) -> str:
        """Return the key of the hash of registries' other names, which operators write: see `index/aliases.py`."""
        return f"crossmount:{self.namespace}:same-registry"

    def data_format(self) -> str:
        """Return the key of the number of the index's format: see `index/data_format.py`."""
        return f"crossmount:{self.namespace}:format"

    def registries(self) -> str:
        """Return the key of the hash of registries that layers were recorded on, and of the home registry."""
        return f"crossmount:{self.namespace}:registries"

    def denied(self, registry: str, account: str) -> str:
        """Return the key of the set of repositories on `registry` that an account may not read."""
        return f"crossmount:{self.namespace}:denied:{registry}:{account}"

    def stats(self, day: str) -> str:
        """Return the key of the hash of look-ups on a day (`2026-11-24`): layers looked up, and layers known.

        The hash tag of all that is counted is the namespace, so that one script can use these keys on a Cluster.
        """
        return f"crossmount:{self.namespace}:stats:{{{self.namespace}}}:{day}"

    def savings(self, when: date) -> str:
        """Return the key of the hash of the accounts of a day: see `index/scripts/count.lua`."""
        return f"crossmount:{self.namespace}:savings:{{{self.namespace}}}:{when.isoformat()}"

    def savings_layers(self, when: date) -> str:
        """Return the key of the sorted set of the layers of a day's accounts."""
        return f"{self.savings(when)}:layers"

    def savings_pushes(self) -> tuple[str, str]:
        """Return the keys of the sets of the pushes that were added to the accounts last, and of those before."""
        key = f"crossmount:{self.namespace}:savings:{{{self.namespace}}}:pushes"
        return key, f"{key}:before"

    def prune(self, scope: str) -> str:
        """Return the key of the hash with the progress of an unfinished prune."""
        return f"crossmount:{self.namespace}:prune:{scope}"

    def parse(self, key: bytes) -> ParsedKey | None:
        """Return the parts of a key; None if it is not a key of this namespace."""
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


def day(now: float) -> str:
    """Return the UTC date of epoch seconds, as in a key."""
    return datetime.fromtimestamp(now, UTC).date().isoformat()


def days(now: float) -> list[str]:
    """Return the days whose counts may still be stored, newest first."""
    return [day(now - back) for back in range(0, STATS_SECONDS + 1, 24 * 3600)]
