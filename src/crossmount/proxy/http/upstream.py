"""The one registry behind the proxy: requests streamed to it, answers streamed back, nothing decoded."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx

from crossmount.errors import CredentialsError, InvalidAnswerError
from crossmount.proxy.http.exchange import Exchange
from crossmount.proxy.http.headers import HeaderPairs, answer_headers
from crossmount.registry.http.httpx_internals import unlogged
from crossmount.registry.http.location import Origin
from crossmount.registry.http.transport import ERROR_BYTES_MAX, shown, translated

_BODILESS = frozenset({204, 304})
_STATUSES = range(200, 600)


@dataclass(frozen=True, slots=True)
class UpstreamTarget:
    """Where a request goes.

    Attributes:
        url: the URL.
        raw: path and query as they are sent, byte for byte; None takes them from `url`.
    """

    url: httpx.URL
    raw: bytes | None = None


@dataclass(frozen=True, slots=True)
class RequestBody:
    """A request's body.

    Attributes:
        content: the bytes themselves, which can be sent again; or as they come, once.
        size: bytes, or None to send it in chunks.
    """

    content: AsyncIterator[bytes] | bytes
    size: int | None


@dataclass(frozen=True, slots=True)
class RejectedAuth:
    """What did not authorise a request.

    Attributes:
        authorization: what was sent.
        challenges: what the registry asked for instead.
    """

    authorization: str | None = field(repr=False)
    challenges: tuple[str, ...]


Authorize = Callable[[RejectedAuth | None], Awaitable[str | None]]
"""Gives what a request is sent with; after that was rejected something better, or None if there is nothing."""


class Upstream:
    """The registry behind the proxy.

    Args:
        base: its scheme, host and port.
        client: holds no credentials; whoever made it closes it.
        challenges: turns an answer's challenges to the proxy.
        seconds: told how long the registry took to begin its answer to a request without a body.
        lends: requests go out with credentials of the proxy's own: that they are refused is no caller's fault.
        clock: seconds, from any start.
    """

    def __init__(
        self,
        base: httpx.URL,
        client: httpx.AsyncClient,
        *,
        challenges: Callable[[Exchange, HeaderPairs], HeaderPairs],
        seconds: Callable[[float], None] = lambda _: None,
        lends: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.base = base
        self._lends = lends
        self._seconds = seconds
        self._clock = clock
        self._challenges = challenges
        self.origin = Origin.of(base)
        self._client = client

    def target(self, raw_path: bytes, query: bytes) -> UpstreamTarget:
        """Return the registry's URL for a path and a query that were checked."""
        raw = raw_path + b"?" + query if query else raw_path
        return UpstreamTarget(self.base.copy_with(raw_path=raw), raw)

    @asynccontextmanager
    async def request(
        self,
        method: str,
        target: UpstreamTarget,
        *,
        headers: HeaderPairs,
        authorize: Authorize | None = None,
        body: RequestBody | None = None,
    ) -> AsyncIterator[httpx.Response]:
        """Send a request and give the answer, its body still to be read.

        Authorization is sent to the registry's own origin alone. After a 401 a request whose body is still at hand
        is sent once more, if there is something better to send it with.

        Raises:
            RegistryUnreachableError: no answer, or one that ends early.
            InvalidAnswerError: an answer that is not HTTP, or has a status that HTTP has not.
            CredentialsError: the registry does not accept the proxy's own credentials.
        """
        ours = authorize if Origin.of(target.url) == self.origin else None
        with translated(method, target.url), unlogged():
            used = None if ours is None else await ours(None)
            response = await self._send(method, target, headers, used, body)
            try:
                if response.status_code == 401 and ours is not None:
                    better = await ours(RejectedAuth(used, tuple(response.headers.get_list("www-authenticate"))))
                    if better is not None and (body is None or body.size == 0 or isinstance(body.content, bytes)):
                        await response.aclose()
                        response = await self._send(method, target, headers, better, body)
                if response.status_code == 401 and self._lends:
                    raise CredentialsError(f"{self.base.host} does not accept this proxy's own credentials")
                if response.status_code not in _STATUSES:
                    where = f"{method} {shown(target.url)}"
                    raise InvalidAnswerError(f"{where}: no answer has the status {response.status_code}")
                if method == "HEAD" or response.status_code in _BODILESS:
                    await response.aread()  # read to its end, or the connection is not used again
                yield response
            finally:
                await response.aclose()

    async def _send(
        self,
        method: str,
        target: UpstreamTarget,
        headers: HeaderPairs,
        authorization: str | None,
        body: RequestBody | None,
    ) -> httpx.Response:
        pairs = list(headers)
        if authorization is not None:
            pairs.append((b"authorization", authorization.encode("latin-1")))
        content: AsyncIterator[bytes] | bytes | None = None
        if body is not None:
            if body.size is not None:
                pairs.append((b"content-length", str(body.size).encode()))
            content = body.content if body.size != 0 else None
        extensions = {} if target.raw is None else {"target": target.raw}
        request = httpx.Request(method, target.url, headers=pairs, content=content, extensions=extensions)
        begun = self._clock()
        response = await self._client.send(request, stream=True, follow_redirects=False)
        if content is None:
            self._seconds(self._clock() - begun)
        return response

    async def forward_answer(
        self, exchange: Exchange, response: httpx.Response, *, headers: HeaderPairs | None = None
    ) -> None:
        """Send the client an answer as it comes, byte for byte.

        With `headers`, those are sent instead of the answer's own, which are turned to the proxy.
        """
        if headers is None:
            headers = self.answer_headers(exchange, response)
        await exchange.start(response.status_code, headers)
        if exchange.method == "HEAD" or response.status_code in _BODILESS:
            await exchange.write(b"", more=False)
            return
        async with exchange.watched():
            async for data in response.aiter_raw():
                await exchange.write(data)
            await exchange.write(b"", more=False)

    def answer_headers(self, exchange: Exchange, response: httpx.Response) -> HeaderPairs:
        """Return an answer's headers as the client is sent them."""
        headers = answer_headers(response.headers, upstream=self.origin, asked=response.request.url)
        if response.status_code in _BODILESS:
            headers = [pair for pair in headers if pair[0] != b"content-length"]
        if Origin.of(response.request.url) != self.origin:
            return [
                pair for pair in headers if pair[0] != b"www-authenticate"
            ]  # callers' credentials are not for it
        return self._challenges(exchange, headers)


async def read_bounded(response: httpx.Response, limit: int = ERROR_BYTES_MAX) -> bytes:
    """Return a small answer's body as it came; one that is longer says nothing that matters, and is left out."""
    content = bytearray()
    async for data in response.aiter_raw():
        content += data
        if len(content) > limit:
            return b""
    return bytes(content)


class SharedTransport(httpx.AsyncBaseTransport):
    """Lets many clients, one a caller, share the connections of one; closing them leaves it open."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request over the shared client."""
        return await self._client.send(request, stream=True, follow_redirects=False)
