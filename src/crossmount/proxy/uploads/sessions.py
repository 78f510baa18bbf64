"""Upload sessions as the client sees them: an unguessable name here, the registry's own Location kept back.

The Location that a registry gives may be signed, may lie on another host, and is where bytes are sent: were it
handed to the client in any form that comes back, the client would choose where the proxy sends. So it stays here,
and the client gets a random name that is worth nothing to another caller or in another repository.
"""

import asyncio
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from crossmount.proxy.auth.callers import Agent
from crossmount.proxy.http.errors import unavailable, upload_invalid, upload_unknown
from crossmount.proxy.uploads.spool import SpoolFile

SESSIONS_MAX = 4096
SESSIONS_A_CALLER = 1024
LIFETIME = 3600.0
BUSY_SECONDS = 5.0
"""How long a request waits for the one before it on its session: a client that has its answer may ask on before
the proxy has put the request away."""

RESTING = 5.0
"""After how many seconds without an upload a push is thought to be over."""


@dataclass(slots=True, eq=False)
class ClientSession:
    """An upload under way.

    Attributes:
        key: its name towards the client.
        owner: whose it is.
        name: the repository.
        location: the registry's session, an absolute URL.
        agent: acts for the owner.
        spool: what came so far, while the decision is put off; None once bytes go straight to the registry.
        relayed: bytes that went straight to the registry.
        touched: when it was last used, in the clock's seconds.
    """

    key: str
    owner: str
    name: str
    location: str = field(repr=False)
    agent: Agent | None = None
    spool: SpoolFile | None = None
    relayed: int = 0
    touched: float = 0.0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock, repr=False)

    @property
    def busy(self) -> bool:
        """Whether a request is at work on it."""
        return self.lock.locked()

    @property
    def path(self) -> str:
        """Its Location towards the client."""
        return f"/v2/{self.name}/blobs/uploads/{self.key}"


class ClientSessions:
    """The uploads under way, bounded in all and for each caller; those that are left alone run out.

    Args:
        limit: how many at once.
        limit_each: how many at once for one caller.
        lifetime: seconds that one may be left alone.
        clock: seconds, from any start.
        make_key: makes an unguessable name.
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
        self._pushes: OrderedDict[tuple[str, str], float] = OrderedDict()  # who pushes where, and when last

    def __len__(self) -> int:
        return len(self._open)

    def check_capacity(self, owner: str) -> None:
        """Make sure that another session can begin.

        Raises:
            RequestRefusedError: too many are open.
        """
        mine = sum(session.owner == owner for session in self._open.values())
        if len(self._open) >= self._limit or mine >= self._limit_each:
            raise unavailable("too many uploads are under way: try again later")

    def add(
        self, owner: str, name: str, location: str, *, agent: Agent | None = None, spool: SpoolFile | None = None
    ) -> ClientSession:
        """Begin a session."""
        session = ClientSession(self._make_key(), owner, name, location, agent, spool, touched=self._clock())
        self._open[session.key] = session
        self.note_push(session.owner, session.name)
        return session

    def has(self, key: str, owner: str, name: str) -> bool:
        """Tell whether a caller has a session of that name in a repository."""
        session = self._open.get(key)
        return session is not None and (session.owner, session.name) == (owner, name)

    @asynccontextmanager
    async def acquire(self, key: str, owner: str, name: str) -> AsyncIterator[ClientSession]:
        """Give the session to one request at a time.

        Raises:
            RequestRefusedError: there is none of that name for this caller in this repository, or it is in use.
        """
        session = self._find(key, owner, name)
        try:
            async with asyncio.timeout(BUSY_SECONDS):
                await session.lock.acquire()
        except TimeoutError:
            raise upload_invalid(409, "another request is at work on this session") from None
        try:
            yield self._find(key, owner, name)  # the request before may have ended it
        finally:
            session.lock.release()
            session.touched = self._clock()
            self.note_push(session.owner, session.name)
            if key in self._open:
                self._open.move_to_end(key)

    def remove(self, session: ClientSession) -> None:
        """Forget a session; its spool is the caller's to close."""
        self._open.pop(session.key, None)

    def take_expired(self) -> list[ClientSession]:
        """Remove and return the sessions that were left alone for too long."""
        until = self._clock() - self._lifetime
        late = [session for session in self._open.values() if session.touched < until and not session.busy]
        for session in late:
            self.remove(session)
        return late

    def note_push(self, owner: str, name: str) -> None:
        """Take note that a caller is in the middle of a push into a repository, with whatever it asked."""
        self._pushes[owner, name] = self._clock()
        self._pushes.move_to_end((owner, name))
        while len(self._pushes) > self._limit:
            self._pushes.popitem(last=False)

    def end_push(self, owner: str, name: str) -> None:
        """Take note that a caller's push into a repository is complete: it is tagged."""
        self._pushes.pop((owner, name), None)

    def is_pushing(self, owner: str, name: str) -> bool:
        """Tell whether a caller is in the middle of a push into a repository."""
        since = self._clock() - RESTING
        return self._pushes.get((owner, name), float("-inf")) >= since or any(
            (session.owner, session.name) == (owner, name) and session.busy for session in self._open.values()
        )

    def any_push_active(self) -> bool:
        """Tell whether anybody is in the middle of a push."""
        since = self._clock() - RESTING
        return any(at >= since for at in self._pushes.values()) or any(s.busy for s in self._open.values())

    def is_push_active_in(self, name: str) -> bool:
        """Tell whether anybody is in the middle of a push into a repository."""
        return any(self.is_pushing(*push) for push in list(self._pushes) if push[1] == name)

    def all(self) -> list[ClientSession]:
        """Return all sessions."""
        return list(self._open.values())

    def _find(self, key: str, owner: str, name: str) -> ClientSession:
        if not self.has(key, owner, name):
            raise upload_unknown()
        return self._open[key]
