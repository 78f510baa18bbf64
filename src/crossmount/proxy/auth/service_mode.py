"""`--auth service`: the proxy checks its callers itself, and acts with credentials of its own."""

import asyncio
import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import bcrypt

from crossmount.errors import InvalidInputError
from crossmount.oci import Repository
from crossmount.proxy.auth.callers import BASIC_CHALLENGE, Agent, Caller, read_basic
from crossmount.proxy.http.errors import RequestRefusedError
from crossmount.proxy.http.exchange import Exchange
from crossmount.proxy.http.headers import HeaderPairs
from crossmount.proxy.http.upstream import RejectedAuth
from crossmount.registry.auth.scope import NOTHING, Wanted, delete, pull, push

_BCRYPT = re.compile(r"\$2[aby]\$[0-9]{2}\$[./A-Za-z0-9]{53}")
_TOKEN_LEAST = 16
_VERIFIED_MAX = 4096
_PASSWORD_MAX = 72
_CHECKS_MAX = 2


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


class ServiceAuthenticator:
    """Lets permitted callers act with the proxy's credentials.

    Args:
        agent: acts with these credentials.
        callers: the permitted callers.
    """

    def __init__(self, agent: Agent, callers: AllowedCallers) -> None:
        self._agent = agent
        self._callers = callers
        self._pinged = False
        self._key = secrets.token_bytes(32)
        self._verified: set[bytes] = set()
        self._checking = asyncio.Semaphore(_CHECKS_MAX)

    async def authenticate(self, exchange: Exchange) -> Caller:
        """Return the caller of a request, identified by a password or a token of the proxy's own files.

        Raises:
            RequestRefusedError: the caller is not one of them (401).
        """
        name = "" if self._callers.permits_everyone else await self._name(exchange)
        if name is None:
            raise RequestRefusedError(
                401, "UNAUTHORIZED", "this proxy wants to know who asks", headers=[BASIC_CHALLENGE]
            )
        return Caller(f"service {name}", agent=self._agent, name=name or "anybody", authorize=self._authorize)

    def own_caller(self) -> Caller:
        """Return the proxy as a caller, with its own credentials."""
        return Caller("service", agent=self._agent, authorize=self._authorize)

    async def answer_token_request(self, exchange: Exchange) -> None:
        """Refuse: the proxy issues no tokens in this mode."""
        del exchange
        raise RequestRefusedError(404, "UNSUPPORTED", "this proxy gives no tokens")

    def rewritten_challenges(self, exchange: Exchange, headers: HeaderPairs) -> HeaderPairs:
        """Return an answer's headers without challenges: they are for the proxy, and no caller can answer them."""
        del exchange
        return [pair for pair in headers if pair[0] != b"www-authenticate"]

    async def _name(self, exchange: Exchange) -> str | None:
        scheme, _, value = (exchange.header(b"authorization") or "").partition(" ")
        if scheme.lower() == "bearer":
            return self._owner_of(value.strip())
        credential = read_basic(value.strip()) if scheme.lower() == "basic" else None
        if credential is None:
            return None
        if await self._check_password(credential.username, credential.secret):
            return credential.username
        return self._owner_of(credential.secret)  # some clients can send a token only as a password

    def _owner_of(self, token: str) -> str | None:
        """Return the name of a token's owner. It is found by its hash, so the time it takes reveals nothing."""
        return self._callers.tokens.get(hashlib.sha256(token.encode()).digest())

    async def _check_password(self, user: str, password: str) -> bool:
        """Check a password. bcrypt is slow by design, so a correct password is cached, as a keyed hash."""
        hashed, secret = self._callers.passwords.get(user), password.encode()
        if hashed is None or len(secret) > _PASSWORD_MAX or b"\0" in secret:
            return False
        mark = hmac.digest(self._key, f"{user}\0{password}".encode(), "sha256")
        if mark in self._verified:
            return True
        try:
            async with self._checking:  # uploads need the threads too
                right = await asyncio.to_thread(bcrypt.checkpw, secret, hashed)
        except ValueError:
            return False
        if right:
            if len(self._verified) >= _VERIFIED_MAX:
                self._verified.clear()
            self._verified.add(mark)
        return right

    async def _authorize(
        self, repository: Repository | None, method: str, rejected: RejectedAuth | None
    ) -> str | None:
        if not self._pinged:
            await self._agent.client.ping()
            self._pinged = True
        client, wanted = self._agent.client, _wanted(repository, method)
        if rejected is None:
            return await client.authorization(repository, wanted)
        return await client.reauthorization(repository, wanted, rejected.authorization, rejected.challenges)


def _wanted(repository: Repository | None, method: str) -> Wanted:
    if repository is None:
        return NOTHING
    if method in {"GET", "HEAD"}:
        return Wanted((pull(repository),))
    return Wanted((push(repository), delete(repository)) if method == "DELETE" else (push(repository),))
