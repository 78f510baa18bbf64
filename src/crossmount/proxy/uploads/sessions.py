"""Upload sessions for clients: each has a random name, and stands for an upload session of the registry.

The registry's Location may be signed or on another host, and the proxy sends bytes there. If a client could return
it in any form, the client would choose where the proxy sends them. So the Location stays in the proxy, and the
client gets a random name, which is useless to another caller and in another repository.
"""

import asyncio
import re
import secrets
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import field

from crossmount._dataclass import dataclass
from crossmount._expiring import ExpiringSet
from crossmount.proxy.auth.callers import Agent
from crossmount.proxy.http.errors import OverQuotaError, unavailable, upload_invalid, upload_unknown
from crossmount.proxy.http.headers import HeaderPairs
from crossmount.proxy.uploads.early_upload import EarlyUpload
from crossmount.proxy.uploads.spool import SHARE
from crossmount.proxy.uploads.spool_file import SpoolFile

SESSIONS_MAX = 4096
SESSIONS_A_CALLER = 1024
LIFETIME = 3600.0
BUSY_SECONDS = 5.0
"""Seconds that a request waits for the previous one on its session. A client may send its next request when it
has the answer, before the proxy has finished the previous request."""

PUSH_IDLE_SECONDS = 5.0
"""Seconds without an upload after which a push counts as over."""


_CONTENT_RANGE = re.compile(r"(?:bytes[ =])?([0-9]{1,18})-([0-9]{1,18})(?:/[0-9*]{1,18})?")


@dataclass(slots=True, eq=False)
class ClientSession:
    """An upload session of a client.

    Attributes:
        key: its random name.
        owner: the key of the caller that started it.
        name: the repository.
        location: the absolute URL of the registry's session.
        agent: acts for the owner.
        spool: the bytes so far, if they are spooled; None if they are relayed to the registry.
        early: sends the spooled bytes to the registry while they arrive; None if nothing does.
        relayed: how many bytes were relayed to the registry.
        is_offset_known: whether `relayed` is certain: after a failed chunk only the registry knows.
        touched: when it was last used, in the clock's seconds.
        lock: locked while a request uses the session.
    """

    key: str
    owner: str
    name: str
    location: str = field(repr=False)
    agent: Agent | None = None
    spool: SpoolFile | None = None
    early: EarlyUpload | None = None
    relayed: int = 0
    is_offset_known: bool = True
    touched: float = 0.0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock, repr=False)

    @property
    def busy(self) -> bool:
        """Whether a request uses it now."""
        return self.lock.locked()

    @property
    def path(self) -> str:
        """The path of its Location for the client."""
        return f"/v2/{self.name}/blobs/uploads/{self.key}"

    def headers(self, size: int | None = None) -> HeaderPairs:
        """Return the headers that name it to the client, with the range of the `size` bytes so far if given."""
        named = [(b"location", self.path.encode()), (b"docker-upload-uuid", self.key.encode())]
        return named if size is None else [*named, (b"range", f"0-{max(0, size - 1)}".encode())]


class ClientSessions:
    """The upload sessions of all clients, bounded in total and for each caller; idle ones expire.

    Args:
        limit: the most sessions.
        limit_each: the most sessions of one caller.
        lifetime: seconds after which an idle session expires.
        clock: seconds, from any start.
        make_key: returns a random name.
    """

    def __init__(
        self,
        *,
        limit: int = SESSIONS_MAX,
        limit_each: int = SESSIONS_A_CALLER,
        lifetime: float = LIFETIME,
        clock: Callable[[], float] = time.monotonic,
        make_key: Callable[[], str] = lambda: secrets.token_urlsafe(24),
    ) -> None:
        self._limit = limit
        self._limit_each = limit_each
        self._lifetime = lifetime
        self._clock = clock
        self._make_key = make_key
        self._open: OrderedDict[str, ClientSession] = OrderedDict()
        self._whole: Counter[str] = Counter()
        # owner and repository of each push that was active lately
        self._pushes: ExpiringSet[tuple[str, str]] = ExpiringSet(PUSH_IDLE_SECONDS, limit=limit, clock=clock)
        self._expected: ExpiringSet[tuple[str, str]] = ExpiringSet(PUSH_IDLE_SECONDS, limit=limit, clock=clock)
        self._stopped: ExpiringSet[tuple[str, str, str]] = ExpiringSet(lifetime, limit=limit, clock=clock)

    def __len__(self) -> int:
        return len(self._open)

    def check_capacity(self, owner: str) -> None:
        """Check that another session may start.

        Raises:
            RequestRefusedError: too many are open.
        """
        mine = sum(session.owner == owner for session in self._open.values())
        if mine >= min(self._limit_each, SHARE * (self._limit - len(self._open))):
            raise unavailable("too many uploads are under way: try again later")

    def add(
        self, owner: str, name: str, location: str, *, agent: Agent | None = None, spool: SpoolFile | None = None
    ) -> ClientSession:
        """Add a session, and return it."""
        session = ClientSession(self._make_key(), owner, name, location, agent, spool, touched=self._clock())
        self._open[session.key] = session
        self.note_push(session.owner, session.name)
        return session

    def has(self, key: str, owner: str, name: str) -> bool:
        """Return whether a caller has a session with this name in a repository."""
        session = self._open.get(key)
        return session is not None and (session.owner, session.name) == (owner, name)

    @asynccontextmanager
    async def acquire(self, key: str, owner: str, name: str) -> AsyncIterator[ClientSession]:
        """Lock a session for one request.

        Raises:
            RequestRefusedError: the caller has no such session in this repository (404), or it is in use (409).
            OverQuotaError: it was stopped at a quota. A client that asks for its offset after the 429 learns why.
        """
        session = self._find(key, owner, name)
        try:
            async with asyncio.timeout(BUSY_SECONDS):
                await session.lock.acquire()
        except TimeoutError:
            raise upload_invalid(409, "another request is using this session: try again later") from None
        try:
            yield self._find(key, owner, name)  # the previous request may have ended it
        finally:
            session.lock.release()
            session.touched = self._clock()
            self.note_push(session.owner, session.name)
            if key in self._open:
                self._open.move_to_end(key)

    def remove(self, session: ClientSession) -> None:
        """Remove a session; its spool is not closed."""
        self._open.pop(session.key, None)

    def note_stopped(self, session: ClientSession) -> None:
        """Note that a session was removed because its caller has sent more than its quota."""
        self._stopped.add((session.key, session.owner, session.name))

    def take_expired(self) -> list[ClientSession]:
        """Remove and return the sessions that have expired."""
        until = self._clock() - self._lifetime
        late = [session for session in self._open.values() if session.touched < until and not session.busy]
        for session in late:
            self.remove(session)
        return late

    def note_push(self, owner: str, name: str) -> None:
        """Note that a caller is pushing into a repository."""
        self._pushes.add((owner, name))

    def note_unpushed(self, owner: str, name: str) -> None:
        """Note that a caller was told that a manifest is not in a repository: if it asks for blobs, it pushes."""
        self._expected.add((owner, name))

    def will_push(self, owner: str, name: str) -> bool:
        """Return whether a caller is pushing into a repository, or will probably push into it soon."""
        return (owner, name) in self._expected or self.is_pushing(owner, name)

    def end_push(self, owner: str, name: str) -> None:
        """Note that a caller's push into a repository is complete: its tag is there."""
        self._pushes.remove((owner, name))

    def is_pushing(self, owner: str, name: str) -> bool:
        """Return whether a caller is pushing into a repository."""
        return (owner, name) in self._pushes or any(
            (session.owner, session.name) == (owner, name) and session.busy for session in self._open.values()
        )

    def any_push_active(self) -> bool:
        """Return whether any caller is pushing."""
        return any(True for _ in self._pushes) or any(s.busy for s in self._open.values())

    def is_push_active_in(self, name: str) -> bool:
        """Return whether any caller is pushing into a repository."""
        return any(self.is_pushing(*push) for push in list(self._pushes) if push[1] == name)

    @contextmanager
    def counted(self, name: str) -> Iterator[None]:
        """Count an upload into a repository that needs no session, since its bytes come with its first request."""
        self._whole[name] += 1
        try:
            yield
        finally:
            self._whole -= Counter([name])

    def uploads(self) -> list[str]:
        """Return the repository of each upload in progress."""
        return [*(session.name for session in self._open.values()), *self._whole.elements()]

    def all(self) -> list[ClientSession]:
        """Return all sessions."""
        return list(self._open.values())

    def _find(self, key: str, owner: str, name: str) -> ClientSession:
        if (key, owner, name) in self._stopped:
            raise OverQuotaError("this upload was stopped: it went beyond the quota of its repositories")
        if not self.has(key, owner, name):
            raise upload_unknown()
        return self._open[key]


def check_content_range(given: str, *, offset: int, length: int | None) -> None:
    """Check that a chunk follows the bytes that are there.

    The specification has `<first>-<last>`, both inclusive ("Pushing a blob in chunks"); some clients send the
    `bytes <first>-<last>/<size>` of RFC 9110.

    Args:
        given: the value of Content-Range.
        offset: how many bytes are there.
        length: how many bytes the chunk has; None if it does not say.

    Raises:
        ValueError: the chunk does not follow; the message says why.
    """
    match = _CONTENT_RANGE.fullmatch(given.strip())
    if match is None:
        raise ValueError("Content-Range must be <first byte>-<last byte>")
    first, last = int(match[1]), int(match[2])
    if first != offset:
        raise ValueError(f"the chunk starts at byte {first}, and {offset} bytes are here")
    if length == 0 and last <= first:
        return  # an empty last chunk has no last byte
    if last < first or (length is not None and last - first + 1 != length):
        raise ValueError(f"Content-Range names {last - first + 1} bytes, Content-Length {length}")
