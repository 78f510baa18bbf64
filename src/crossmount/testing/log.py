"""What a registry was asked and what came of it, for expectations."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from crossmount.oci.digest import Digest

KEPT_HEADERS = frozenset(
    {"accept", "content-length", "content-range", "content-type", "expect", "host", "range", "user-agent"}
)
"""The request headers that a record keeps; a credential is never among them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRecord:
    """One request and its answer.

    Attributes:
        method: in capitals.
        path: decoded.
        query: as it was sent, without the question mark.
        status: what was answered, 0 if nothing was.
        received: bytes of the request's body.
        sent: bytes of the answer's body.
        auth_scheme: `basic`, `bearer` or another, empty if there was no Authorization header.
        headers: those of `KEPT_HEADERS` that were sent, names in lower case.
        fault: the name of the scripted fault that was played, empty if none was.
        connection: which connection it came on, counted from 1.
    """

    method: str
    path: str
    query: str = ""
    status: int = 0
    received: int = 0
    sent: int = 0
    auth_scheme: str = ""
    headers: Mapping[str, str] = field(default_factory=dict, hash=False)
    fault: str = ""
    connection: int = 0


class Tally:
    """Counts of what changed."""

    def __init__(self) -> None:
        self.uploads: Counter[Digest] = Counter()
        self.mounts: Counter[Digest] = Counter()
        self.upload_bytes = 0

    def uploaded(self, digest: Digest, size: int) -> None:
        """Count a blob that came as bytes."""
        self.uploads[digest] += 1
        self.upload_bytes += size

    def mounted(self, digest: Digest) -> None:
        """Count a blob that was mounted."""
        self.mounts[digest] += 1
