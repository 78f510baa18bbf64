"""A deadline for all that a blocking connection reads: a socket's time-out begins anew with each byte.

What connects anew is under it too: there may be several servers to try.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import redis

_until: ContextVar[float] = ContextVar("crossmount_index_until", default=float("inf"))


@contextmanager
def hurried(seconds: float) -> Iterator[None]:
    """Let what is read inside, in this thread, end after `seconds`."""
    token = _until.set(time.monotonic() + seconds)
    try:
        yield
    finally:
        _until.reset(token)


def hurry(pool: redis.ConnectionPool) -> None:
    """Let connections that `pool` makes from now on heed `hurried`."""
    kind: Any = pool.connection_class

    class Hurried(kind):  # type: ignore[misc]
        """A connection over a socket with a deadline."""

        def _connect(self) -> "_Socket":
            _check()
            return _Socket(super()._connect())

    if issubclass(kind, redis.UnixDomainSocketConnection):
        Hurried.host = Hurried.port = None  # redis-py 8 looks for them when it is too late to connect
    pool.connection_class = Hurried


class _Socket:
    """A socket, whose reads check the deadline first."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)

    def recv(self, *args: Any) -> Any:
        """Read, unless it is too late."""
        _check()
        return self._socket.recv(*args)

    def recv_into(self, *args: Any) -> Any:
        """Read, unless it is too late."""
        _check()
        return self._socket.recv_into(*args)


def _check() -> None:
    if time.monotonic() > _until.get():
        raise TimeoutError("too late")
