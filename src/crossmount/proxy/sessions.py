"""Upload sessions as the client sees them: an unguessable name here, the registry's own Location kept back.

The Location that a registry gives may be signed, may lie on another host, and is where bytes are sent: were it
handed to the client in any form that comes back, the client would choose where the proxy sends. So it stays here,
and the client gets a random name that is worth nothing to another caller or in another repository.
"""

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from crossmount.proxy.refused import unavailable, upload_invalid, upload_unknown
from crossmount.proxy.spool import Spool

SESSIONS_MAX = 4096
SESSIONS_A_CALLER = 1024
LIFETIME = 3600.0


@dataclass(slots=True, eq=False)
class Session:
    """An upload under way.

    Attributes:
        key: its name towards the client.
        owner: whose it is.
        name: the repository.
        location: the registry's session, an absolute URL.
        spool: what came so far, while the decision is put off; None once bytes go straight to the registry.
        busy: whether a request is at work on it.
        touched: when it was last used, in the clock's seconds.
    """

    key: str
    owner: str
    name: str
    location: str = field(repr=False)
    spool: Spool | None = None
    busy: bool = False
    touched: float = 0.0

    @property
    def path(self) -> str:
        """Its Location towards the client."""
        return f"/v2/{self.name}/blobs/uploads/{self.key}"


class Sessions:
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
        self._open: OrderedDict[str, Session] = OrderedDict()

    def __len__(self) -> int:
        return len(self._open)

    def check_room(self, owner: str) -> None:
        """Make sure that another session can begin.

        Raises:
            RefusedError: too many are open.
        """
        mine = sum(session.owner == owner for session in self._open.values())
        if len(self._open) >= self._limit or mine >= self._limit_each:
            raise unavailable("too many uploads are under way: try again later")

    def add(self, owner: str, name: str, location: str, spool: Spool | None = None) -> Session:
        """Begin a session."""
        session = Session(self._make_key(), owner, name, location, spool, touched=self._clock())
        self._open[session.key] = session
        return session

    def knows(self, key: str, owner: str, name: str) -> bool:
        """Tell whether a caller has a session of that name in a repository."""
        session = self._open.get(key)
        return session is not None and (session.owner, session.name) == (owner, name)

    @contextmanager
    def use(self, key: str, owner: str, name: str) -> Iterator[Session]:
        """Give the session to one request.

        Raises:
            RefusedError: there is none of that name for this caller in this repository, or it is in use.
        """
        if not self.knows(key, owner, name):
            raise upload_unknown()
        session = self._open[key]
        if session.busy:
            raise upload_invalid(409, "another request is at work on this session")
        session.busy = True
        try:
            yield session
        finally:
            session.busy = False
            session.touched = self._clock()
            if key in self._open:
                self._open.move_to_end(key)

    def remove(self, session: Session) -> None:
        """Forget a session; its spool is the caller's to close."""
        self._open.pop(session.key, None)

    def expired(self) -> list[Session]:
        """Remove and return the sessions that were left alone for too long."""
        until = self._clock() - self._lifetime
        late = [session for session in self._open.values() if session.touched < until and not session.busy]
        for session in late:
            self.remove(session)
        return late

    def moving(self, within: float) -> bool:
        """Tell whether an upload is at work, or was within that many seconds."""
        since = self._clock() - within
        return any(session.busy or session.touched >= since for session in self._open.values())

    def active_in(self, name: str) -> bool:
        """Tell whether an upload into a repository is under way."""
        return any(session.name == name for session in self._open.values())

    def drain(self) -> list[Session]:
        """Remove and return all sessions."""
        left = list(self._open.values())
        self._open.clear()
        return left
