"""Details of httpx and httpcore that crossmount depends on and that neither documents.

Tried with httpx 0.28.1, httpcore 1.0.9, h11 0.16.0 and anyio 4; `tests/registry/test_httpx_internals.py` fails if
they change.

- The names of their loggers. httpx logs every URL whole, httpcore every header of an answer, and both may hold
  signed URLs. A filter drops these lines for our own requests; another use of httpx in the program logs as before.
- The texts of `RemoteProtocolError`: one class stands for a connection that was cut, which is worth a retry, and
  for an answer that is not HTTP, which is not.
- The transport of a client, which the proxy uses without the rest of the client.
- Where bytes wait that nobody asked for. httpcore uses a connection again although bytes after the answer's end
  are in its buffers, and reads them as the next answer, which may be another caller's (RFC 9112, 6.3 and 11.1).

`httpcore_pool` depends on details of httpcore's pool.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import httpx

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

SINGLE_USE = "crossmount.single_use"
"""An extension of a request: no other request may follow it on its connection."""

OWNER = "crossmount.owner"
"""An extension of a request: the text that names whose it is. Owners share no connections."""

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


def is_cut(error: httpx.HTTPError) -> bool:
    """Return whether a connection failed or was cut, rather than carried something that is not HTTP."""
    if not isinstance(error, httpx.RemoteProtocolError):
        return isinstance(error, (httpx.TimeoutException, httpx.NetworkError))
    return any(word in str(error) for word in CUT_WORDS)


class LastAnswerStream(httpx.AsyncByteStream):
    """The body of an answer; a connection whose next answer would not be certain is closed with it.

    That is a connection with bytes after the answer's end, and one whose answer gives two lengths (a
    Transfer-Encoding and a Content-Length): the sender may mean the rest as an answer.

    Args:
        stream: the body of the answer.
        connection: httpcore's connection that it came over.
        network: the stream of bytes below; it is closed after each answer if `connection` is None.
        is_last: whether no answer may follow this one.
    """

    def __init__(self, stream: httpx.AsyncByteStream, connection: Any, network: Any, *, is_last: bool) -> None:
        self._stream = stream
        self._connection = connection
        self._network = network
        self._is_last = is_last

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._stream.__aiter__()

    async def aclose(self) -> None:
        """Close the answer, and its connection unless that is certainly at the answer's end."""
        if self._connection is None:  # not to be seen in this version of httpcore: no connection is used twice
            await self._network.aclose()
            await asyncio.sleep(0)
        elif self._is_last or has_surplus(self._connection):
            self._connection._h11_state.send_failed()  # noqa: SLF001 httpcore closes what is not in order
        await self._stream.aclose()


async def send_bare(client: httpx.AsyncClient, request: httpx.Request) -> httpx.Response:
    """Send a request over a client's connections as it is, and return the answer with its body unread.

    That takes half of the time of `client.send`, which also looks for cookies, credentials, redirects and hooks.

    Raises:
        RuntimeError: the client is closed.
    """
    if client.is_closed:
        raise RuntimeError("Cannot send a request, as the client has been closed.")  # httpx's words
    request.extensions.setdefault("timeout", client.timeout.as_dict())
    transport = client._transport_for_url(request.url)  # noqa: SLF001 the client's own or one for this host
    response = await transport.handle_async_request(request)
    response.request = request
    await end_with_answer(response)
    return response


async def end_with_answer(response: httpx.Response) -> None:
    """A hook for httpx: close an answer's connection with it if the next answer there would not be certain."""
    network, stream = response.extensions.get("network_stream"), response.stream
    if network is None or not isinstance(stream, httpx.AsyncByteStream):
        return  # a test's transport has no connections
    names = {name.lower() for name, _ in response.headers.raw}
    response.stream = LastAnswerStream(
        stream,
        connection_of(stream),
        network,
        is_last=SINGLE_USE in response.request.extensions or {b"transfer-encoding", b"content-length"} <= names,
    )


def connection_of(stream: Any) -> Any:
    """Return httpcore's connection below the body of an answer; None if this version has none there."""
    while not hasattr(stream, "_connection"):
        below = getattr(stream, "_stream", None) or getattr(stream, "_httpcore_stream", None)
        if below is None:
            return None
        stream = below
    connection = stream._connection  # noqa: SLF001
    return connection if hasattr(connection, "_h11_state") and hasattr(connection, "_network_stream") else None


def has_surplus(connection: Any) -> bool:
    """Return whether bytes were received that are not part of the answer: in h11, TLS or the event loop.

    What has not left the operating system yet is found by httpcore itself when the connection is used next.
    """
    if connection._h11_state.trailing_data[0]:  # noqa: SLF001
        return True
    stream = connection._network_stream  # noqa: SLF001
    while stream is not None:  # ours knows; httpcore's own are looked into, down to the event loop's protocol
        tls = getattr(stream, "_ssl_object", None)
        if (
            getattr(stream, "holds_bytes", False)
            or getattr(stream, "_buffer", None)
            or (tls is not None and (tls.pending() or stream._read_bio.pending))  # noqa: SLF001
            or getattr(getattr(stream, "_protocol", None), "read_queue", None)
        ):
            return True
        stream = getattr(stream, "transport_stream", None) or getattr(stream, "_stream", None)
    return False
