"""One call to the servers: it waits for its turn, then its deadline begins.

Waiting for a turn is no silence of the server, so a call's deadline counts from its turn. A crowd in front of a
silent server must end all the same: when a call gets no answer, the calls that waited meanwhile end with it.
"""

import asyncio
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from crossmount.errors import IndexUnavailableError

CALL_SECONDS = 1.5
"""How long a call may take from its turn on, its retry included. After that a push goes on without the index."""


class Call:
    """One call, as all parts of the client see it.

    Args:
        loop: the event loop that waits for it; None where a thread waits.

    Attributes:
        asked: when it was made (monotonic seconds).
        cancelled: whether nobody waits for it any more; what it meets then means nothing about the servers.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self.asked = time.monotonic()
        self.loop = loop
        self._until = float("inf")
        self.cancelled = False

    def begin(self) -> None:
        """Start the deadline."""
        self._until = time.monotonic() + CALL_SECONDS

    def cancel(self) -> None:
        """End the call where it next looks: nobody waits for it any more. Any thread may call this."""
        self.cancelled = True

    @property
    def left(self) -> float:
        """Seconds until the deadline, never less than 0."""
        return 0.0 if self.cancelled else max(0.0, self._until - time.monotonic())

    def check(self) -> None:
        """Go on only if there is time left.

        Raises:
            TimeoutError: there is none, or the call is cancelled.
        """
        if not self.left:
            raise TimeoutError("too late")


_current: ContextVar[Call | None] = ContextVar("crossmount_redis_call", default=None)


def current_call() -> Call | None:
    """Return the call that this thread works on; None outside of one."""
    return _current.get()


class Turns:
    """Limits how many calls of one client are in flight.

    Safe to share by threads, and by a process and its forks.

    Args:
        most: how many calls may be in flight, each on a connection of its own.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._pid = os.getpid()
        self._free = threading.Semaphore(most)
        self._silence: tuple[float, IndexUnavailableError] | None = None

    @contextmanager
    def turn(self, call: Call) -> Iterator[None]:
        """Wait for a turn, and do what is inside within the call's deadline.

        Raises:
            IndexUnavailableError: while this call waited, another one got no answer.
        """
        if self._pid != os.getpid():  # the turns of a parent's threads, which a fork does not have
            self._pid, self._free, self._silence = os.getpid(), threading.Semaphore(self._most), None
        with self._free:
            silence = self._silence
            if silence is not None and silence[0] >= call.asked:
                raise IndexUnavailableError(str(silence[1]))
            call.begin()
            token = _current.set(call)
            try:
                yield
            except IndexUnavailableError as error:
                if not call.cancelled:
                    self._silence = time.monotonic(), error
                raise
            else:
                self._silence = None
            finally:
                _current.reset(token)
