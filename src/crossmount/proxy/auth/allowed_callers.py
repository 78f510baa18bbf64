"""The callers of `--auth service`: the files that name them, and the checks of their passwords and tokens."""

import asyncio
import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import field
from pathlib import Path

import bcrypt

from crossmount._dataclass import dataclass
from crossmount.errors import InvalidInputError

_BCRYPT = re.compile(r"\$2[aby]\$[0-9]{2}\$[./A-Za-z0-9]{53}")
_TOKEN_LEAST = 16
_VERIFIED_MAX = 4096
_PASSWORD_MAX = 72


@dataclass(frozen=True, slots=True)
class AllowedCallers:
    """The callers that may use the proxy.

    Attributes:
        passwords: bcrypt hashes by user name.
        tokens: names by the SHA-256 of their token.
    """

    passwords: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    tokens: Mapping[bytes, str] = field(default_factory=dict, repr=False)

    @property
    def permits_everyone(self) -> bool:
        """Whether every caller may use the proxy."""
        return not self.passwords and not self.tokens

    @classmethod
    def read(cls, htpasswd: Path | None, tokens: Path | None) -> "AllowedCallers":
        """Read the files of callers.

        Args:
            htpasswd: a file with `name:bcrypt hash` on each line; `#` begins a comment.
            tokens: a file with `name:token` on each line.

        Raises:
            InvalidInputError: a file cannot be read, has no entry, or has an invalid line.
        """
        passwords, bearers = _read(htpasswd), _read(tokens)
        for number, value in passwords.values():
            if not _BCRYPT.fullmatch(value):
                raise InvalidInputError(f"{htpasswd}:{number}: passwords must be hashed by bcrypt: htpasswd -B")
        for number, value in bearers.values():
            if len(value) < _TOKEN_LEAST:
                raise InvalidInputError(f"{tokens}:{number}: a token needs {_TOKEN_LEAST} characters at least")
        return cls(
            {name: value.encode() for name, (_, value) in passwords.items()},
            {hashlib.sha256(value.encode()).digest(): name for name, (_, value) in bearers.items()},
        )


def _read(path: Path | None) -> dict[str, tuple[int, str]]:
    """Return the line number and the value of each name."""
    if path is None:
        return {}
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"{path}: cannot be read as a file of callers") from error
    found: dict[str, tuple[int, str]] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, value = line.strip().partition(":")
        if not name or not value:
            raise InvalidInputError(f"{path}:{number}: give each line as name:value")
        if name in found:
            raise InvalidInputError(f"{path}:{number}: {name!r} stands in line {found[name][0]} already")
        found[name] = number, value
    if not found:
        raise InvalidInputError(f"{path}: give at least one line, as name:value")
    return found


class CallerChecks:
    """Checks passwords and tokens of one reading of the files; what it has verified counts for that reading alone.

    Args:
        callers: the permitted callers.
    """

    def __init__(self, callers: AllowedCallers) -> None:
        self.callers = callers
        self._unknown = _hash_like(callers.passwords.values())
        self._key = secrets.token_bytes(32)
        self._verified: set[bytes] = set()

    def owner_of(self, token: str) -> str | None:
        """Return the name of a token's owner. It is found by its hash, so the time it takes reveals nothing."""
        return self.callers.tokens.get(hashlib.sha256(token.encode()).digest())

    async def check_password(self, user: str, password: str, turn: AbstractAsyncContextManager[None]) -> bool:
        """Check a password. bcrypt is slow by design, so a correct password is cached, as a keyed hash.

        An unknown name takes as long as a known one with a wrong password.

        Args:
            user: the name.
            password: the password.
            turn: entered for the slow check alone.
        """
        known, secret = self.callers.passwords.get(user), password.encode()
        hashed = self._unknown if known is None else known
        if hashed is None or len(secret) > _PASSWORD_MAX or b"\0" in secret:
            return False
        mark = hmac.digest(self._key, f"{user}\0{password}".encode(), "sha256")
        if mark in self._verified:
            return True
        try:
            async with turn:
                right = await asyncio.to_thread(bcrypt.checkpw, secret, hashed)
        except ValueError:
            return False
        right = right and known is not None
        if right:
            if len(self._verified) >= _VERIFIED_MAX:
                self._verified.clear()
            self._verified.add(mark)
        return right


def _hash_like(hashes: Iterable[bytes]) -> bytes | None:
    """Return the hash of a random password that is as slow to check as the slowest of these; None without any."""
    costs = [int(hashed.split(b"$")[2]) for hashed in hashes]
    if not costs:
        return None
    letters = "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
    text = "".join(secrets.choice(letters) for _ in range(52))
    return f"$2b${max(costs):02}$".encode() + text[:21].encode() + b"." + text[21:].encode()
