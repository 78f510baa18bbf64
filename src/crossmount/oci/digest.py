"""Digests, as the image specification defines them (descriptor.md, "Digests")."""

import hashlib
import re
from typing import Protocol, Self

from crossmount.errors import InvalidDigestError

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
            raise InvalidDigestError(f"not a digest: a {type(text).__name__}: give text, sha256:<64 hex>")
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


def _shown(text: str) -> str:
    """Return untrusted text quoted and shortened for a message of one line."""
    return repr(text if len(text) <= 100 else text[:100] + "…")
