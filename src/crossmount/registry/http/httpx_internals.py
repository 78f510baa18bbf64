"""Keeps signed URLs out of the logs: httpx logs every URL whole, httpcore every header of an answer.

The filter drops only the lines about our own requests; a program's other use of httpx logs as before.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_LOGGERS = (
    "httpx",
    "httpcore.connection",
    "httpcore.http11",
    "httpcore.http2",
    "httpcore.proxy",
    "httpcore.socks",
)

_ours: ContextVar[bool] = ContextVar("crossmount_request", default=False)


def _is_foreign(record: logging.LogRecord) -> bool:
    del record
    return not _ours.get()


def silence() -> None:
    """Install the filter; doing it again changes nothing."""
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_is_foreign)


@contextmanager
def unlogged() -> Iterator[None]:
    """Mark what happens inside as ours."""
    token = _ours.set(True)
    try:
        yield
    finally:
        _ours.reset(token)
