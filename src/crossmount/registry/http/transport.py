"""The HTTP client: how it is made, and how one request is sent over it. It raises httpx's own exceptions.

The client has no credentials, stores no cookies and follows no redirects: a request carries only what its caller
sets. An answer belongs to one request: a connection with bytes left over after an answer is not used again.
"""

import logging
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from dataclasses import field
from typing import Any, Self

import httpx

from crossmount import __version__
from crossmount._dataclass import dataclass
from crossmount._parsing import decimal
from crossmount._secrets import mask_forms, mask_values, scrub, secrets_in
from crossmount.registry.credentials.authfiles import NO_CREDENTIALS
from crossmount.registry.http.certificates import TrustStore
from crossmount.registry.http.connections import Connections
from crossmount.registry.http.location import Origin, shown
from crossmount.registry.http.options import ON_ANSWER, STREAMED, ClientOptions
from crossmount.registry.http.outbound_proxy import ProxyRules
from crossmount.registry.http.user_transport import UserTransport

_log = logging.getLogger(__name__)

ERROR_BYTES_MAX = 64 * 1024
"""The most bytes of an error's or a token's body that are read."""


@dataclass(frozen=True, slots=True)
class Body:
    """A request's body of `size` bytes; it is opened each time the request is sent."""

    size: int
    open: Callable[[], AsyncGenerator[bytes]]

    @classmethod
    def of(cls, content: bytes) -> Self:
        """Return a body of bytes in memory."""

        async def stream() -> AsyncGenerator[bytes]:
            yield content

        return cls(len(content), stream)


NO_BODY = Body.of(b"")


@dataclass(frozen=True, slots=True)
class Answer:
    """A registry's answer: status, headers, and a body that is either in memory or still to be read.

    Attributes:
        url: the URL of the last request, after redirects.
        body: the bytes; empty if there were too many (`too_long`) or they are in `stream`.
        stream: the open response; its receiver closes it.
        sent_with: the origin of the request's credentials, for messages.
        secrets: what was sent as a credential, if the answer refuses it; no message may repeat it.
        about: what the request was about, for the error that the answer becomes.
    """

    url: httpx.URL
    status: int
    headers: httpx.Headers = field(repr=False)
    body: bytes = field(default=b"", repr=False)
    too_long: bool = False
    stream: httpx.Response | None = field(default=None, repr=False)
    sent_with: str = NO_CREDENTIALS
    secrets: tuple[str, ...] = field(default=(), repr=False)
    about: Mapping[str, object] = field(default_factory=dict, repr=False)

    @property
    def is_good(self) -> bool:
        """Whether the status is 2xx."""
        return 200 <= self.status < 300

    @property
    def content_type(self) -> str:
        """The media type, without parameters, in lower case."""
        return str(self.headers.get("content-type", "")).partition(";")[0].strip().lower()

    def masked(self, text: str) -> str:
        """Return what the server says without what was sent to it as a credential; some servers repeat it."""
        return mask_forms(mask_values(text, self.secrets))


class HttpClient(httpx.AsyncBaseTransport):
    """Sends each request unchanged, with default time-outs. It has no headers, credentials or cookies of its own.

    Args:
        transport: sends them; it is closed with the client.
        timeout: the default time-outs.
    """

    def __init__(self, transport: httpx.AsyncBaseTransport, timeout: httpx.Timeout) -> None:
        self._transport = transport
        self._timeouts = timeout.as_dict()
        self._is_closed = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request, and return the answer with its body unread.

        Raises:
            httpx.HTTPError: there is no answer.
            RuntimeError: the client is closed.
        """
        if self._is_closed:
            raise RuntimeError("Cannot send a request, as the client has been closed.")  # httpx's words
        given = request.extensions.get("timeout", {})
        request.extensions = {**request.extensions, "timeout": {**self._timeouts, **given}}
        response = await self._transport.handle_async_request(request)
        response.request = request
        return response

    async def aclose(self) -> None:
        """Close the transport."""
        self._is_closed = True
        await self._transport.aclose()


def make_client(
    options: ClientOptions,
    *,
    registry: Origin | None = None,
    transport: httpx.AsyncBaseTransport | None = None,
    wrap: Callable[[httpx.AsyncBaseTransport], httpx.AsyncBaseTransport] | None = None,
) -> HttpClient:
    """Make the client for all requests to one registry, its token realm and its storage.

    Proxies come from the environment, by the rules of `outbound_proxy`. A netrc file is not read.

    Args:
        options: how to reach the registry.
        registry: the registry's origin; only it is shown a client certificate.
        transport: sends the requests instead of sockets.
        wrap: returns the transport that is used instead of one.

    Raises:
        InvalidInputError: a file of certificates, or a proxy in the environment, is not usable.
    """
    if transport is None:
        own = options.transport
        transport = _connections(options, registry) if own is None else UserTransport(own)
    if wrap is not None:
        transport = wrap(transport)
    return HttpClient(
        transport,
        httpx.Timeout(
            connect=options.connect_timeout,
            read=options.read_timeout,
            write=options.read_timeout,
            pool=None,  # a request waits for a connection as long as the uploads before it take
        ),
    )


def _connections(options: ClientOptions, registry: Origin | None) -> Connections:
    trust = TrustStore(options, registry)
    if registry is None or registry.scheme == "https":
        trust.check_named_files()
    return Connections(
        registry,
        rules=ProxyRules.from_environment(os.environ)
        if options.proxy is None
        else ProxyRules.through(str(options.proxy)),
        trust=trust,
        limit=options.max_connections,
    )


async def _sent(
    client: HttpClient, request: httpx.Request, content: AsyncGenerator[bytes] | None
) -> httpx.Response:
    """Send a request, and close its body: a cut request leaves the generator, and the file that it reads, open."""
    response: httpx.Response | None = None
    try:
        response = await client.handle_async_request(request)
    finally:
        if content is not None:
            try:
                await content.aclose()
            except BaseException:
                if response is not None:
                    await response.aclose()
                raise
    return response


async def exchange(
    client: HttpClient,
    method: str,
    url: httpx.URL,
    *,
    headers: Mapping[str, str],
    body: Body | None = None,
    limit: int = ERROR_BYTES_MAX,
    streamed: bool = False,
    read_timeout: float | None = None,
    on_answer: Callable[[], None] | None = None,
) -> Answer:
    """Send one request as it is: no redirect is followed, no Authorization is added.

    Args:
        client: from `make_client`.
        method: the method.
        url: an absolute URL.
        headers: the headers, without those that all our requests have.
        body: the request's body.
        limit: the most bytes of a 2xx answer's body that are read; for other answers that is `ERROR_BYTES_MAX`.
        streamed: leave a 2xx answer's body unread in `Answer.stream`.
        read_timeout: seconds between two bytes of the answer; None takes the client's.
        on_answer: called when the final answer begins; not by every transport.

    Raises:
        httpx.HTTPError: there is no answer; `errors.translated` turns it into one of ours.
    """
    sent = {"Accept": "*/*", "User-Agent": f"crossmount/{__version__}", "Accept-Encoding": "identity", **headers}
    content: AsyncGenerator[bytes] | None = None
    if body is not None:
        sent["Content-Length"] = str(body.size)
        content = body.open() if body.size else None
    extensions: dict[str, Any] = {}
    if read_timeout is not None:
        extensions["timeout"] = {"read": read_timeout}
    if streamed:
        extensions[STREAMED] = True
    if on_answer is not None:
        extensions[ON_ANSWER] = on_answer
    started = time.monotonic()
    request = httpx.Request(method, url, headers=sent, content=content, extensions=extensions)
    secrets = secrets_in(sent["Authorization"]) if "Authorization" in sent else ()
    try:
        response = await _sent(client, request, content)
        _trace(method, url, response.status_code, started)
        good = response.is_success
        if streamed and good:
            return Answer(url, response.status_code, response.headers, stream=response, secrets=secrets)
        try:
            received, too_long = await _read(response, limit if good else ERROR_BYTES_MAX)
        finally:
            await response.aclose()
    except httpx.HTTPError as error:
        _trace(method, url, type(error).__name__, started)
        scrub(error, secrets)  # what is not HTTP is quoted in it, and h11 quotes a header that it refuses
        raise
    # a 2xx that is not the expected one is reported as a refusal, with its words
    return Answer(url, response.status_code, response.headers, received, too_long, secrets=secrets)


def _trace(method: str, url: httpx.URL, outcome: int | str, started: float) -> None:
    """Log a request and its outcome; of the query only what a mount names, since the rest may be signed."""
    if _log.isEnabledFor(logging.DEBUG):
        mount = " ".join(f"{name}={url.params[name]}" for name in ("mount", "from") if name in url.params)
        took = (time.monotonic() - started) * 1000
        _log.debug("%s %s%s: %s, %.0f ms", method, shown(url), f" ({mount})" if mount else "", outcome, took)


async def _read(response: httpx.Response, limit: int) -> tuple[bytes, bool]:
    """Return a body of at most `limit` bytes and False, or no bytes and True if it is longer."""
    announced = decimal(response.headers.get("content-length", ""))
    if announced is not None and announced > limit and response.request.method != "HEAD":
        return b"", True
    parts = bytearray()
    async for part in raw_bytes(response):
        parts += part
        if len(parts) > limit:
            return b"", True
    return bytes(parts), False


def raw_bytes(response: httpx.Response) -> AsyncIterator[bytes]:
    """Return a body's bytes undecoded; a test's transport may have read them already."""
    return response.aiter_bytes() if response.is_stream_consumed else response.aiter_raw()
