"""The httpx edge: the client, what is sent over it, and its exceptions as ours.

The client holds no credentials, no cookies and no redirects: what a request carries is decided for that request.
"""

import ssl
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.cookiejar import CookieJar, DefaultCookiePolicy
from importlib.metadata import version
from typing import Any, Self

import httpx

from crossmount._parsing import decimal, one_line
from crossmount.errors import (
    InvalidAnswerError,
    InvalidInputError,
    RegistryError,
    RegistryUnreachableError,
)
from crossmount.registry.http.httpx_internals import silence
from crossmount.registry.http.options import ClientOptions

ERROR_BYTES_MAX = 64 * 1024
"""How much of an error's or a token's body is read."""


@dataclass(frozen=True, slots=True)
class Body:
    """What a request sends: `size` bytes, opened anew each time the request is sent."""

    size: int
    open: Callable[[], AsyncGenerator[bytes]]

    @classmethod
    def of(cls, content: bytes) -> Self:
        """Return a body that is in memory."""

        async def stream() -> AsyncGenerator[bytes]:
            yield content

        return cls(len(content), stream)


NO_BODY = Body.of(b"")


@dataclass(frozen=True, slots=True)
class Answer:
    """A status with its headers, and a body that is read already, or still to be read from `stream`.

    Attributes:
        url: what was asked in the end, after redirects.
        body: the bytes; empty if there were too many of them (`too_long`) or they are in `stream`.
        stream: an open response, whoever gets it closes it.
        sent_with: whose credentials were shown, in words.
    """

    url: httpx.URL
    status: int
    headers: httpx.Headers = field(repr=False)
    body: bytes = field(default=b"", repr=False)
    too_long: bool = False
    stream: httpx.Response | None = field(default=None, repr=False)
    sent_with: str = "no credentials"

    @property
    def is_good(self) -> bool:
        """Whether the status is 2xx."""
        return 200 <= self.status < 300

    @property
    def content_type(self) -> str:
        """The media type, without parameters, in lower case."""
        return str(self.headers.get("content-type", "")).partition(";")[0].strip().lower()


def make_client(options: ClientOptions, *, transport: httpx.AsyncBaseTransport | None = None) -> httpx.AsyncClient:
    """Make the client that all requests to one registry, its realm and its storage go over.

    Proxies are taken from the environment, as everywhere; a netrc file is not.

    Raises:
        InvalidInputError: the file of authorities, or a proxy of the environment, cannot be used.
    """
    silence()
    # a transport that is given has its own trust; making one costs more than all else here
    trust = _trust(options) if transport is None else False
    try:
        return httpx.AsyncClient(
            headers={
                "User-Agent": _user_agent(),
                "Accept-Encoding": "identity",  # digests and limits are about the bytes that travel
            },
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            verify=trust,
            timeout=httpx.Timeout(
                connect=options.connect_timeout,
                read=options.read_timeout,
                write=options.read_timeout,
                pool=None,  # requests wait for their turn, however long the uploads before them take
            ),
            limits=httpx.Limits(
                max_connections=options.max_connections, max_keepalive_connections=options.max_connections
            ),
            follow_redirects=False,
            transport=transport,
        )
    except (ValueError, httpx.InvalidURL) as error:
        raise InvalidInputError(
            "a proxy that the environment names (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY) is not a URL"
        ) from error


@cache
def _user_agent() -> str:
    return f"crossmount/{version('crossmount')}"


class LateTrust(ssl.SSLContext):
    """Trusts nobody until the first TLS connection is made, and the system's authorities from then on."""

    _loaded = False

    def wrap_bio(self, *args: Any, **details: Any) -> ssl.SSLObject:
        """Begin a connection over memory, as event loops do."""
        if not self._loaded:
            self.load_default_certs()
            self._loaded = True
        return super().wrap_bio(*args, **details)


def _trust(options: ClientOptions) -> ssl.SSLContext | bool:
    if options.insecure:
        return False
    try:
        if options.ca_file is not None:
            return ssl.create_default_context(cafile=options.ca_file)
        paths = ssl.get_default_verify_paths()
        if paths.cafile or paths.capath or sys.platform == "win32":
            # A registry over plain HTTP seldom sends anybody to https, and the authorities take 80 ms to load.
            return LateTrust(ssl.PROTOCOL_TLS_CLIENT) if options.plain_http else ssl.create_default_context()
    except OSError as error:  # ssl.SSLError is one
        what = options.ca_file or "the system's certificate authorities"
        raise InvalidInputError(f"{what}: not a readable PEM file of authorities") from error
    return True  # a system without authorities of its own: those that come with httpx


async def exchange(
    client: httpx.AsyncClient,
    method: str,
    url: httpx.URL,
    *,
    headers: Mapping[str, str],
    body: Body | None = None,
    limit: int = ERROR_BYTES_MAX,
    streamed: bool = False,
) -> Answer:
    """Send one request, raising httpx's own exceptions; neither redirects nor Authorization are added.

    Args:
        client: what to send over.
        method: the method.
        url: absolute.
        headers: besides those of the client.
        body: what to send.
        limit: how many bytes of a 2xx answer's body are read; of other answers it is `ERROR_BYTES_MAX`.
        streamed: leave a 2xx answer's body unread in `Answer.stream`.
    """
    sent = dict(headers)
    content: AsyncGenerator[bytes] | None = None
    if body is not None:
        sent["Content-Length"] = str(body.size)
        content = body.open() if body.size else None
    request = client.build_request(method, url, headers=sent, content=content)
    try:
        response = await client.send(request, stream=True, follow_redirects=False)
    finally:
        if content is not None:
            await content.aclose()  # a request that was cut leaves it, and the file it reads, open
    good = response.is_success
    if streamed and good:
        return Answer(url, response.status_code, response.headers, stream=response)
    try:
        content_read, too_long = (
            (b"", False) if method == "HEAD" else await _read(response, limit if good else ERROR_BYTES_MAX)
        )
    finally:
        await response.aclose()
    return Answer(url, response.status_code, response.headers, content_read, too_long)


async def _read(response: httpx.Response, limit: int) -> tuple[bytes, bool]:
    """Read a body of at most `limit` bytes, or nothing more of it once it turns out longer."""
    announced = decimal(response.headers.get("content-length", ""))
    if announced is not None and announced > limit:
        return b"", True
    parts = bytearray()
    async for part in travelled(response):
        parts += part
        if len(parts) > limit:
            return b"", True
    return bytes(parts), False


def travelled(response: httpx.Response) -> AsyncIterator[bytes]:
    """Return a body's bytes as they travelled; a transport for tests may have read them already."""
    return response.aiter_bytes() if response.is_stream_consumed else response.aiter_raw()


@contextmanager
def translated(method: str, url: httpx.URL) -> Iterator[None]:
    """Turn every exception of httpx into one of ours, with the request's method and place.

    A UnicodeError is one too: httpx looks at where a redirect leads, and not every host name can be decoded.

    Raises:
        RegistryUnreachableError: no answer.
        InvalidAnswerError: an answer that is not HTTP.
        RegistryError: the request could not be formed.
    """
    try:
        yield
    except (httpx.HTTPError, httpx.InvalidURL, httpx.CookieConflict, httpx.StreamError, UnicodeError) as error:
        raise _ours(error, f"{method} {shown(url)}") from error


def shown(url: httpx.URL) -> str:
    """Return `url` for a message: without its query, which may be signed."""
    return str(url.copy_with(query=None, fragment=None, userinfo=b""))


def is_cut(error: httpx.HTTPError) -> bool:
    """Tell whether the connection ended in the middle, rather than carrying something that is not HTTP."""
    if not isinstance(error, httpx.RemoteProtocolError):
        return isinstance(error, (httpx.TimeoutException, httpx.NetworkError))
    return any(word in str(error) for word in ("disconnected", "closed connection", "ConnectionTerminated"))


def is_distrust(error: BaseException) -> bool:
    """Tell whether TLS stands in the way, which another attempt would not change."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def describe(error: BaseException) -> str:
    """Say in a few words what went wrong on the way, without anything that was sent."""
    match error:
        case httpx.ConnectTimeout():
            return "no connection in time"
        case httpx.TimeoutException():
            return "no answer in time"
        case httpx.ProxyError():
            return f"the proxy refused: {one_line(str(error))}"
        case httpx.NetworkError() | httpx.RemoteProtocolError():
            return one_line(str(error)) or "the connection was cut"
    return type(error).__name__


def _ours(error: Exception, where: str) -> RegistryError:
    if is_distrust(error):
        return RegistryUnreachableError(f"{where}: {describe(error)}: {_advice_on_tls(str(error))}")
    match error:
        case httpx.RemoteProtocolError() if not is_cut(error):
            return InvalidAnswerError(f"{where}: the answer is not HTTP: {describe(error)}")
        case httpx.TimeoutException() | httpx.NetworkError() | httpx.ProxyError() | httpx.RemoteProtocolError():
            return RegistryUnreachableError(f"{where}: {describe(error)}")
        case (
            httpx.DecodingError()
            | httpx.TooManyRedirects()
            | httpx.InvalidURL()
            | httpx.UnsupportedProtocol()
            | UnicodeError()
        ):
            return InvalidAnswerError(f"{where}: the answer cannot be followed ({describe(error)})")
    return RegistryError(f"{where}: the request could not be sent ({describe(error)})")


def _advice_on_tls(text: str) -> str:
    if "WRONG_VERSION_NUMBER" in text or "record layer failure" in text:
        return "it does not speak TLS; if that is right, allow plain http"
    return "its certificate is not trusted; name its authority's file, or connect insecurely"
