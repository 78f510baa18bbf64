"""The secret that registries show with their events, in whichever form each of them can."""

import base64
import binascii
import hmac
from dataclasses import dataclass, field
from pathlib import Path

from crossmount.errors import InvalidInputError

SECRET_MIN = 16
"""Fewer characters could be guessed."""

_FILE_MAX = 64 * 1024


@dataclass(frozen=True, slots=True)
class Secrets:
    """Secrets that are accepted; none at all means that anybody is."""

    values: tuple[bytes, ...] = field(default=(), repr=False)

    @classmethod
    def read(cls, path: Path) -> "Secrets":
        """Read a file: a secret a line, so that a new one can be accepted beside the old one; `#` is a comment.

        Raises:
            InvalidInputError: it can't be read, or has no secret, or one that is too short.
        """
        try:
            with path.open("rb") as file:
                content = file.read(_FILE_MAX)
        except OSError as error:
            raise InvalidInputError(f"{path}: the file of secrets cannot be read: {error.strerror}") from error
        values = tuple(
            line.strip() for line in content.splitlines() if line.strip() and not line.strip().startswith(b"#")
        )
        if not values or any(len(value) < SECRET_MIN for value in values):
            raise InvalidInputError(f"{path}: give a secret of at least {SECRET_MIN} characters a line")
        return cls(values)

    def accept(self, authorization: str | None) -> bool:
        """Tell whether an Authorization header shows a secret, in a time that tells nothing of it.

        It may be a Bearer token, the password of Basic (which a URL can carry), or the whole value, which is what
        Harbor sends.
        """
        if not self.values:
            return True
        if authorization is None:
            return False
        shown = [authorization.strip().encode("utf-8", "surrogateescape")]
        scheme, _, rest = authorization.strip().partition(" ")
        if scheme.lower() == "bearer":
            shown.append(rest.strip().encode("utf-8", "surrogateescape"))
        elif scheme.lower() == "basic":
            shown.append(_password(rest.strip()))
        matches = [hmac.compare_digest(each, value) for each in shown for value in self.values]
        return any(matches)


def _password(encoded: str) -> bytes:
    try:
        return base64.b64decode(encoded, validate=True).partition(b":")[2]
    except (binascii.Error, ValueError):
        return b""
