"""A transport that the user made: we do not close it, and it must not log what we send.

httpx logs every URL whole, and httpcore below it every header of an answer; both may hold a signature. A
filter drops these lines for our own requests; another use of httpx in the program logs as before.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import httpx

LOGGERS = (
    "httpx",
    "httpcore.connection",
    "httpcore.http11",
    "httpcore.http2",
    "httpcore.proxy",
    "httpcore.socks",
)
"""Neither library documents their names; a test fails if they change."""

_ours: ContextVar[bool] = ContextVar("crossmount_request", default=False)


class UserTransport(httpx.AsyncBaseTransport):
    """Sends over the user's transport, and keeps our requests out of httpcore's logs.

    Many clients may share it; its `aclose`, the base class's, closes nothing.

    Args:
        transport: the user's.
    """

    def __init__(self, transport: httpx.AsyncBaseTransport) -> None:
        self._transport = transport
        for name in LOGGERS:
            logging.getLogger(name).addFilter(_is_not_ours)  # once: the same function is not added again

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request."""
        with _unlogged():
            return await self._transport.handle_async_request(request)


def _is_not_ours(record: logging.LogRecord) -> bool:
    del record
    return not _ours.get()


@contextmanager
def _unlogged() -> Iterator[None]:
    token = _ours.set(True)
    try:
        yield
    finally:
        _ours.reset(token)
