"""Details of httpx and httpcore that crossmount depends on and that neither documents.

Tried with httpx 0.28.1 and httpcore 1.0.9; `tests/registry/test_httpx_internals.py` fails if they change.

- The names of their loggers. httpx logs every URL whole, httpcore every header of an answer, and both may hold
  signed URLs. A filter drops these lines for our own requests; another use of httpx in the program logs as before.
- The texts of `RemoteProtocolError`: one class stands for a connection that was cut, which is worth a retry, and
  for an answer that is not HTTP, which is not.
- The place of the network backend in an httpx transport. httpcore documents backends, and httpx takes none.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import httpcore
import httpx

from crossmount.registry.http.early_answers import AnsweredBackend

LOGGERS = (
    "httpx",
    "httpcore.connection",
    "httpcore.http11",
    "httpcore.http2",
    "httpcore.proxy",
    "httpcore.socks",
)

CUT_WORDS = ("disconnected", "closed connection", "ConnectionTerminated")
"""Words in the text of a `RemoteProtocolError` that stands for a connection that was cut."""

_ours: ContextVar[bool] = ContextVar("crossmount_request", default=False)


def _is_not_ours(record: logging.LogRecord) -> bool:
    del record
    return not _ours.get()


def install_log_filter() -> None:
    """Install the filter; a second call changes nothing."""
    for name in LOGGERS:
        logging.getLogger(name).addFilter(_is_not_ours)


@contextmanager
def unlogged() -> Iterator[None]:
    """Mark the requests inside the block as ours, so that they are not logged."""
    token = _ours.set(True)
    try:
        yield
    finally:
        _ours.reset(token)


def watch_answers(transport: httpx.AsyncHTTPTransport) -> httpx.AsyncHTTPTransport:
    """Make the connections of a new transport notice answers that come before a body is sent; return it.

    Raises:
        TypeError: httpx or httpcore have changed.
    """
    pool = transport._pool  # noqa: SLF001 httpx has no parameter for it
    backend = getattr(pool, "_network_backend", None)
    if not isinstance(backend, httpcore.AsyncNetworkBackend):
        raise TypeError("httpcore keeps its network backend elsewhere: adapt httpx_internals")
    pool._network_backend = AnsweredBackend(backend)  # noqa: SLF001
    return transport


def is_cut(error: httpx.HTTPError) -> bool:
    """Return whether a connection failed or was cut, rather than carried something that is not HTTP."""
    if not isinstance(error, httpx.RemoteProtocolError):
        return isinstance(error, (httpx.TimeoutException, httpx.NetworkError))
    return any(word in str(error) for word in CUT_WORDS)
