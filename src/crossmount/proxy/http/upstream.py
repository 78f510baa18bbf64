"""The registry behind the proxy: clients' requests are streamed to it, and its answers streamed back, unchanged.

There are two ways to the registry, on one pool of connections. `RegistryClient` sends the proxy's own requests: it
authenticates, retries and follows redirects. `Upstream` sends the clients' requests, and must do none of this:

- the path, the query and repeated headers go out as they came, and bodies are streamed, not stored or decoded;
- a redirect, an error and, in client mode, a 401 with its challenge are answers for the client, which has the
  credentials and the bytes to send the request again.

Rights are decided in one place all the same: in service mode `Upstream` gets its Authorization, the first one and
the one after a 401, from the registry client (`RegistryClient.authorization` and `reauthorization`).
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import field
from typing import Any

import httpx

from crossmount._dataclass import dataclass
from crossmount.errors import CredentialsError, InvalidAnswerError
from crossmount.oci import Digest
from crossmount.proxy.http.exchange import Exchange
from crossmount.proxy.http.headers import HeaderPairs, answer_headers
from crossmount.registry.http.errors import translated
from crossmount.registry.http.location import Origin, shown
from crossmount.registry.http.options import LAST_ON_CONNECTION, OWNER, ClientOptions
from crossmount.registry.http.transport import ERROR_BYTES_MAX, HttpClient

_BODILESS = frozenset({204, 304})
_STATUSES = range(200, 600)
_SESSION_HEADERS = frozenset({b"set-cookie", b"set-cookie2"})


@dataclass(frozen=True, slots=True)
class UpstreamTarget:
    """The URL of a request.

    Attributes:
        base: the URL; only its scheme, host and port count if `raw` is given.
        raw: path and query, byte for byte as they are sent; None takes them from `base`.
    """

    base: httpx.URL
    raw: bytes | None = None

    @property
    def url(self) -> httpx.URL:
        """The whole URL. To make it takes a twentieth of the time of a HEAD, so only who needs it does."""
        return self.base if self.raw is None else self.base.copy_with(raw_path=self.raw)


@dataclass(frozen=True, slots=True)
class RequestBody:
    """The body of a request.

    Attributes:
        content: the bytes, which can be sent again; or a stream, which can be sent once.
        size: how many bytes; None sends the body in chunks.
    """

    content: AsyncIterator[bytes] | bytes
    size: int | None


@dataclass(frozen=True, slots=True)
class RejectedAuth:
    """An Authorization that the registry rejected with 401.

    Attributes:
        authorization: the Authorization that was sent; None if there was none.
        challenges: the WWW-Authenticate headers of the 401.
    """

    authorization: str | None = field(repr=False)
    challenges: tuple[str, ...]


def _ignore(response: httpx.Response) -> None:
    del response


@dataclass(frozen=True, slots=True)
class RequestAuth:
    """What authorizes one request.

    Attributes:
        authorize: returns the Authorization; after a 401 a better one, or None if there is none.
        observe: receives the registry's last answer, with its body unread.
        owner: names whose request it is. No other's travels on the same connection: an answer that goes on after
            its end can harm only its own caller.
    """

    authorize: Callable[[RejectedAuth | None], Awaitable[str | None]]
    observe: Callable[[httpx.Response], None] = _ignore
    owner: str = ""


class Upstream:
    """The registry behind the proxy.

    Args:
        base: the registry's scheme, host and port.
        client: sends the requests; has no credentials. The caller closes it.
        rewrite_challenges: rewrites the challenges in an answer's headers for clients of the proxy.
        observe_seconds: called with the seconds until the registry began its answer to a request without a body.
        own_credentials: requests carry the proxy's own credentials, so a 401 is not the client's to answer.
        keep_cookies: whether answers may set cookies: only where a client sends them back to the same registry.
        commit_timeout: seconds until the answer to a request with a body begins, once the body is sent.
        clock: seconds, from any start.

    Attributes:
        base: the registry's scheme, host and port.
        origin: the same, to compare.
        round_trip: the usual seconds of a request without a body, lately.
    """

    def __init__(
        self,
        base: httpx.URL,
        client: HttpClient,
        *,
        rewrite_challenges: Callable[[Exchange, HeaderPairs], HeaderPairs],
        observe_seconds: Callable[[float], None] = lambda _: None,
        own_credentials: bool = False,
        keep_cookies: bool = True,
        commit_timeout: float = ClientOptions().commit_timeout,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.base = base
        self._own_credentials = own_credentials
        self._keep_cookies = keep_cookies and not own_credentials
        self._commit_timeout = commit_timeout
        self._observe_seconds = observe_seconds
        self._clock = clock
        self._rewrite_challenges = rewrite_challenges
        self.origin = Origin.of(base)
        self._client = client
        self.round_trip = 0.02
        self._measured = 0

    def target(self, raw_path: bytes, query: bytes) -> UpstreamTarget:
        """Return the registry's URL for a path and a query, which must have been checked."""
        raw = raw_path + b"?" + query if query else raw_path
        return UpstreamTarget(self.base, raw)

    def blob_target(self, repository: str, digest: Digest) -> UpstreamTarget:
        """Return the registry's URL of a blob in the repository of this name."""
        return self.target(f"/v2/{repository}/blobs/{digest}".encode(), b"")

    @asynccontextmanager
    async def request(
        self,
        method: str,
        target: UpstreamTarget,
        *,
        headers: HeaderPairs,
        auth: RequestAuth | None = None,
        body: RequestBody | None = None,
    ) -> AsyncIterator[httpx.Response]:
        """Send a request and yield the answer, with its body unread.

        The Authorization is sent to the registry's own origin alone. After a 401 a request without a body, or with
        its body in memory, is sent once more if there is a better Authorization.

        Args:
            method: the method.
            target: the URL.
            headers: the headers, without Authorization and Content-Length.
            auth: what authorizes the request; None sends it without an Authorization.
            body: the body, if there is one.

        Raises:
            RegistryUnreachableError: no answer, or one that ends early.
            InvalidAnswerError: an answer that is not HTTP, or with a status that HTTP does not have.
            CredentialsError: the registry rejects the proxy's own credentials.
        """
        owner = "" if auth is None else auth.owner
        auth = auth if Origin.of(target.base) == self.origin else None
        with translated(method, lambda: target.url):
            used = None if auth is None else await auth.authorize(None)
            response = await self._send(method, target, headers, used, body, owner)
            try:
                if response.status_code == 401 and auth is not None:
                    better = await auth.authorize(
                        RejectedAuth(used, tuple(response.headers.get_list("www-authenticate")))
                    )
                    if better is not None and (body is None or body.size == 0 or isinstance(body.content, bytes)):
                        await response.aclose()
                        response = await self._send(method, target, headers, better, body, owner)
                if auth is not None:
                    auth.observe(response)
                if response.status_code == 401 and self._own_credentials:
                    raise CredentialsError(f"{self.base.host} does not accept this proxy's own credentials")
                if response.status_code not in _STATUSES:
                    where = f"{method} {shown(target.url)}"
                    raise InvalidAnswerError(f"{where}: no answer has the status {response.status_code}")
                if method == "HEAD" or response.status_code in _BODILESS:
                    await response.aclose()  # its connection can be used again while the caller works
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
        owner: str,
    ) -> httpx.Response:
        pairs = list(headers)
        if authorization is not None:
            pairs.append((b"authorization", authorization.encode("latin-1")))
        content: AsyncIterator[bytes] | bytes | None = None
        if body is not None:
            if body.size is not None:
                pairs.append((b"content-length", str(body.size).encode()))
            content = body.content if body.size != 0 else None
        extensions: dict[str, Any] = {OWNER: owner} if target.raw is None else {OWNER: owner, "target": target.raw}
        if authorization is not None and not authorizes_request(authorization):
            extensions[LAST_ON_CONNECTION] = True
        if content is not None or method == "PUT":  # the last request of an upload may have no body
            extensions["timeout"] = {"read": self._commit_timeout}
        request = httpx.Request(method, target.base, headers=pairs, content=content, extensions=extensions)
        begun = self._clock()
        response = await self._client.handle_async_request(request)
        if content is None:
            seconds = self._clock() - begun
            self._observe_seconds(seconds)
            self._measured = min(16, self._measured + 1)
            self.round_trip += (seconds - self.round_trip) / self._measured
        return response

    async def forward_answer(
        self,
        exchange: Exchange,
        response: httpx.Response,
        *,
        headers: HeaderPairs | None = None,
        observe: Callable[[bytes], None] | None = None,
    ) -> None:
        """Stream an answer to the client, byte for byte.

        Args:
            exchange: the client's request.
            response: the registry's answer.
            headers: the headers to send; None sends the answer's own, rewritten.
            observe: called with each piece of the body.
        """
        if headers is None:
            headers = self.answer_headers(exchange, response)
        if exchange.method == "HEAD" or response.status_code in _BODILESS:
            await exchange.send_head(response.status_code, headers)
            return
        await exchange.start(response.status_code, headers)
        async with exchange.watched():
            async for data in response.aiter_raw():
                await exchange.write(data)
                if observe is not None:
                    observe(data)
            await exchange.write(b"", more=False)

    def answer_headers(self, exchange: Exchange, response: httpx.Response) -> HeaderPairs:
        """Return the headers of an answer, rewritten for the client."""
        asked = UpstreamTarget(response.request.url, response.request.extensions.get("target"))
        headers = answer_headers(response.headers, upstream=self.origin, asked=lambda: asked.url)
        if response.status_code in _BODILESS:
            headers = [pair for pair in headers if pair[0] != b"content-length"]
        if Origin.of(response.request.url) != self.origin:
            # another host must not ask for the callers' credentials
            return [pair for pair in headers if pair[0] != b"www-authenticate"]
        if not self._keep_cookies:  # a session of the proxy's own account would be as good as its password
            headers = [pair for pair in headers if pair[0] not in _SESSION_HEADERS]
        return self._rewrite_challenges(exchange, headers)


async def read_bounded(response: httpx.Response, limit: int = ERROR_BYTES_MAX) -> bytes:
    """Return the body of an answer, undecoded; empty if it is longer than `limit` bytes."""
    content = bytearray()
    async for data in response.aiter_raw():
        content += data
        if len(content) > limit:
            return b""
    return bytes(content)


def authorizes_request(authorization: str) -> bool:
    """Return whether a value of Authorization is for its request alone.

    Basic and Bearer are. Negotiate and NTLM authenticate the whole connection (RFC 4559, section 6), and other
    schemes may: a request with one of them is the last one on its connection.
    """
    return authorization.partition(" ")[0].lower() in {"basic", "bearer"}


class SharedTransport(httpx.AsyncBaseTransport):
    """A transport on another client's connections: many clients share one pool, which none of them closes.

    Args:
        client: the client that has the connections.
        owner: names whose requests these are; those of others travel on other connections.
    """

    def __init__(self, client: HttpClient, *, owner: str) -> None:
        self._client = client
        self._owner = owner

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request over the shared client."""
        request.extensions = {**request.extensions, OWNER: self._owner}
        return await self._client.handle_async_request(request)
