"""The one place that names Redis keys.

The digest is the hash tag: all keys of a layer lie in one slot, so a script serves a layer on a Cluster too,
and layers fill the slots evenly. The namespace is what separates tenants and what an ACL pattern grants.
"""

import re
from dataclasses import dataclass

from crossmount.errors import InvalidInputError
from crossmount.oci import Digest, Repository

_NAMESPACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


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

    def manifest(self, digest: Digest) -> str:
        """Name the string that says which blobs and manifests the manifest `digest` names."""
        return f"crossmount:{self.namespace}:{{{digest}}}:manifest"

    def scan(self, registry: str, scope: str) -> str:
        """Name the string that names the unfinished scan of `scope` on `registry`."""
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
