"""`--auth service`: the proxy checks its callers itself, and acts with credentials of its own.

Files name the callers, with hashes of their passwords, or with their tokens.
"""

import asyncio
import hashlib
import hmac
import re
import secrets
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import field
from pathlib import Path
from weakref import WeakValueDictionary

import bcrypt

from crossmount._dataclass import dataclass
from crossmount.errors import InvalidInputError
from crossmount.oci import Repository
from crossmount.proxy.auth.callers import BASIC_CHALLENGE, Agent, Caller, read_basic
from crossmount.proxy.auth.own_names import OwnNames
from crossmount.proxy.http.errors import RequestRefusedError
from crossmount.proxy.http.exchange import Exchange
from crossmount.proxy.http.headers import HeaderPairs
from crossmount.proxy.http.upstream import RejectedAuth
from crossmount.proxy.reload import Live
from crossmount.registry import RegistryClient
from crossmount.registry.auth.scope import NOTHING, Wanted, delete, pull, push

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
    """Checks passwords and tokens against one reading of the files, for which verified passwords are cached.

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


_CHECKS_MAX = 2


class ServiceAuthenticator:
    """Lets permitted callers act with the proxy's credentials.

    Args:
        agent: acts with these credentials; replaced when they may have changed.
        checks: checks callers; replaced when their files change, so that a removed caller is out at once.
        names: the names that the proxy is called by.
    """

    def __init__(self, agent: Live[Agent], checks: Live[CallerChecks], *, names: OwnNames) -> None:
        self._agent = agent
        self._checks = checks
        self._names = names
        self._peers = PeerTurns()
        self._pinged: RegistryClient | None = None
        self._checking = asyncio.Semaphore(_CHECKS_MAX)

    async def authenticate(self, exchange: Exchange) -> Caller:
        """Return the caller of a request, identified by a password or a token of the proxy's own files.

        Raises:
            RequestRefusedError: the caller is not one of them (401), the request names another host (421), or a
                web page of another site sent it (403).
        """
        self._names.check(exchange)
        name = await self._permitted(exchange)
        return Caller(
            f"service {name}", agent=self._agent.value, name=name or "anybody", authorize=self._authorize
        )

    def own_caller(self) -> Caller:
        """Return the proxy as a caller, with its own credentials."""
        return Caller("service", agent=self._agent.value, authorize=self._authorize)

    async def answer_token_request(self, exchange: Exchange) -> None:
        """Refuse: the proxy issues no tokens in this mode."""
        del exchange
        raise RequestRefusedError(404, "UNSUPPORTED", "this proxy gives no tokens")

    async def permit_metrics(self, exchange: Exchange) -> None:
        """Show the metrics to the proxy's own callers.

        Raises:
            RequestRefusedError: the caller is not one of them.
        """
        await self.authenticate(exchange)

    async def permit_page(self, exchange: Exchange, *, names: bool) -> None:
        """Show a page to the proxy's own callers.

        Raises:
            RequestRefusedError: the caller is not one of them, or as `authenticate`.
        """
        del names
        self._names.check(exchange, is_page=True)
        await self._permitted(exchange)

    def rewritten_challenges(self, exchange: Exchange, headers: HeaderPairs) -> HeaderPairs:
        """Return an answer's headers without challenges: they are for the proxy, and no caller can answer them."""
        del exchange
        return [pair for pair in headers if pair[0] != b"www-authenticate"]

    async def _permitted(self, exchange: Exchange) -> str:
        """Return the caller's name, empty if everybody is permitted.

        Raises:
            RequestRefusedError: the caller is not permitted.
        """
        checks = self._checks.value
        name = "" if checks.callers.permits_everyone else await self._name(exchange, checks)
        if name is None:
            raise RequestRefusedError(
                401, "UNAUTHORIZED", "this proxy needs a password or a token: log in", headers=[BASIC_CHALLENGE]
            )
        return name

    async def _name(self, exchange: Exchange, checks: CallerChecks) -> str | None:
        scheme, _, value = (exchange.header(b"authorization") or "").partition(" ")
        if scheme.lower() == "bearer":
            return checks.owner_of(value.strip())
        credential = read_basic(value.strip()) if scheme.lower() == "basic" else None
        if credential is None:
            return None
        user, secret = credential.username, credential.secret
        if await checks.check_password(user, secret, self._slow_check(exchange.peer)):
            return user
        return checks.owner_of(secret)  # some clients can send a token only as a password

    @asynccontextmanager
    async def _slow_check(self, peer: str) -> AsyncIterator[None]:
        async with self._peers.turn(peer), self._checking:  # uploads need the threads too
            yield

    async def _authorize(
        self, repository: Repository | None, method: str, rejected: RejectedAuth | None
    ) -> str | None:
        client, wanted = self._agent.value.client, _wanted(repository, method)
        if self._pinged is not client:
            await client.ping()
            self._pinged = client
        if rejected is None:
            return await client.authorization(repository, wanted)
        return await client.reauthorization(repository, wanted, rejected.authorization, rejected.challenges)


class PeerTurns:
    """One slow check at a time for each address: a sender of many wrong passwords delays only itself."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def turn(self, peer: str) -> AsyncIterator[None]:
        """Wait for the turn of an address."""
        lock = self._locks.get(peer)
        if lock is None:
            lock = self._locks[peer] = asyncio.Lock()
        async with lock:
            yield


def _wanted(repository: Repository | None, method: str) -> Wanted:
    if repository is None:
        return NOTHING
    if method in {"GET", "HEAD"}:
        return Wanted((pull(repository),))
    return Wanted((push(repository), delete(repository)) if method == "DELETE" else (push(repository),))
