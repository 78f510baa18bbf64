"""One request to one registry, from the first byte to the answer: paced, authorized, redirected, retried.

`Requester.send` wraps, from the outside in: retries (`retry`), authorization with repetitions after a 401
(`auth.authorizer`), redirects (`location`), and one HTTP exchange (`transport`).

The proxy relays a client's requests by its own `proxy.http.upstream`: a relayed body can be read only once, and
its bytes, its path and its headers must not change, so it can be neither retried nor redirected here. Both use the
same HTTP client and translation of errors, and for the proxy's own credentials the same `Authorizer`, by
`RegistryClient.authorization` and `reauthorization`.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import aclosing, contextmanager
from contextvars import ContextVar
from dataclasses import field, replace
from functools import partial

import httpx

from crossmount._dataclass import dataclass
from crossmount.errors import InvalidAnswerError, knowing
from crossmount.registry.auth.authorizer import Authorizer
from crossmount.registry.auth.flow import TokenRequest
from crossmount.registry.auth.scope import NOTHING, Wanted
from crossmount.registry.credentials.lookup import CredentialSource
from crossmount.registry.http.errors import WEB_PAGES, refusal, translated
from crossmount.registry.http.location import Origin, resolve, shown
from crossmount.registry.http.retry import Retrier
from crossmount.registry.http.transport import ERROR_BYTES_MAX, Answer, Body, HttpClient, exchange

REDIRECTS_MAX = 10

RENEWALS_MAX = 8
"""How many times one request is sent again with a new token; a token may be good for a few requests only."""

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_housekeeping: ContextVar[bool] = ContextVar("crossmount_housekeeping", default=False)


@contextmanager
def housekeeping() -> Iterator[None]:
    """Mark the requests inside the block as housekeeping: they cost no other request its token, or a pause."""
    reset = _housekeeping.set(True)
    try:
        yield
    finally:
        _housekeeping.reset(reset)


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryRequest:
    """One request before it is authorized.

    Attributes:
        name: the repository whose credentials are used, "" for the registry itself.
        wanted: the scopes that the request needs.
        body: the request's body; it is opened for each attempt.
        limit: the most bytes that a 2xx answer may have.
        streamed: leave a 2xx answer's body unread.
        repeat: whether the request may be sent again as it is.
        about: the reference and digest that it is about, for errors.
        on_sent: called when the last byte was handed to the connection, each time the request is sent.
    """

    method: str
    url: httpx.URL
    name: str = ""
    wanted: Wanted = NOTHING
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Body | None = None
    limit: int = ERROR_BYTES_MAX
    streamed: bool = False
    repeat: bool = True
    about: Mapping[str, object] = field(default_factory=dict)
    on_sent: Callable[[], None] = lambda: None


class RateLimiter:
    """Spaces requests evenly.

    Args:
        rate: the most requests a second; None sets no limit.
        clock: seconds, from any start.
        sleep: waits for a number of seconds.
    """

    def __init__(
        self,
        rate: float | None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._gap = 0.0 if rate is None else 1.0 / rate
        self._clock = clock
        self._sleep = sleep
        self._next = float("-inf")

    async def acquire(self) -> None:
        """Wait until the next request may be sent; requests are sent in the order of their calls."""
        if not self._gap:
            return
        now = self._clock()
        at = max(now, self._next)
        self._next = at + self._gap
        if at > now:
            await self._sleep(at - now)


class Requester:
    """Sends requests to one registry, and to the URLs that its answers name.

    Args:
        registry: the registry, normalised.
        root: the registry's `/v2/`; only its origin gets Authorization.
        client: from `make_client`; its maker closes it.
        retrier: when to send again.
        credentials: the source of credentials.
        trusted_realms: hosts that the user trusts with the credentials.
        rate: the most requests a second; None sets no limit.
        commit_timeout: seconds until the answer to a PUT or a PATCH begins, once its body is sent.
    """

    def __init__(
        self,
        registry: str,
        root: httpx.URL,
        *,
        client: HttpClient,
        retrier: Retrier,
        credentials: CredentialSource,
        trusted_realms: Collection[str] = (),
        rate: float | None = None,
        commit_timeout: float = 600.0,
    ) -> None:
        self._registry = registry
        self.origin = Origin.of(root)
        self.retrier = retrier
        self.authorizer = Authorizer(
            registry,
            root,
            credentials=credentials,
            trusted=trusted_realms,
            fetch=self._fetch_token,
            clock=retrier.clock,
        )
        self._client = client
        self._commit_timeout = commit_timeout
        self._rate_limiter = RateLimiter(rate, clock=retrier.clock)

    async def send(self, call: RegistryRequest) -> Answer:
        """Send a request and return the answer, whatever its status.

        Raises:
            RegistryUnreachableError: no answer, after all attempts.
            RegistryRefusedError: no token was given, or the registry asked for a pause that outlasts the timeout.
            InvalidAnswerError: a redirect must not be followed, the answer is too long, or it is a web page with
                a success status.
            CredentialsError: the credentials cannot be used, or would go to an untrusted host.
        """
        named = f"{self._registry}/{call.name}" if call.name else None
        about = {"registry": self._registry, "repository": named, **call.about}
        with knowing(**about, method=call.method, url=shown(call.url)):
            answer = await self._retried(call, partial(self._authorized, call))
            if answer.is_good and not call.streamed and answer.content_type in WEB_PAGES:
                raise refusal(answer, call.method)
        return answer if answer.is_good else replace(answer, about=about)

    async def send_anonymously(self, call: RegistryRequest) -> Answer:
        """Send a request without Authorization; redirects are followed."""
        return await self._retried(call, partial(self._redirected, call, None))

    async def _fetch_token(self, request: TokenRequest) -> Answer:
        """Send a request to a token realm; redirects are not followed."""
        headers = {"Accept": "application/json"}
        if request.form is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        call = RegistryRequest(
            method=request.method,
            url=request.url,
            headers=headers,
            body=None if request.form is None else Body.of(request.form),
        )
        return await self._retried(call, partial(self._once, call, request.authorization))

    async def _retried(self, call: RegistryRequest, send: Callable[[], Awaitable[Answer]]) -> Answer:
        """Run `send`, again if it fails and the call may be repeated."""
        host, alone = Origin.of(call.url).authority, _housekeeping.get()
        with translated(call.method, call.url):
            if call.repeat:
                answer = await self.retrier.run(call.method, host, send, alone=alone)
            else:
                answer = await self.retrier.run_once(host, send, alone=alone)
        if answer.too_long and answer.is_good:
            raise InvalidAnswerError(
                f"{call.method} {shown(call.url)}: the answer has more than {call.limit} bytes"
            )
        return answer

    async def _authorized(self, call: RegistryRequest) -> Answer:
        """Send once, and again after a 401 as long as there is another authorization to try."""
        if Origin.of(call.url) != self.origin:
            return await self._redirected(call, None)
        is_housekeeping = _housekeeping.get()
        used = await self.authorizer.authorize(call.name, call.wanted, housekeeping=is_housekeeping)
        answer = await self._redirected(call, used.header)
        for renewals in range(RENEWALS_MAX):
            if answer.status != 401 or Origin.of(answer.url) != self.origin:
                break
            challenges = answer.headers.get_list("www-authenticate")
            better = await self.authorizer.reauthorize(
                call.name, call.wanted, used, challenges, housekeeping=is_housekeeping, renewed=renewals > 0
            )
            if better is None:
                break
            used = better
            if used.lacks_source:
                break
            answer = await self._redirected(call, used.header)
        if answer.status != 401:
            self.authorizer.note_accepted(call.wanted, used, answer.status)
        if answer.is_good:
            return answer
        secrets = () if used.credential is None else (used.credential.secret,)
        sent_with = self.authorizer.described(used)
        return replace(answer, sent_with=sent_with, secrets=(*answer.secrets, *secrets))

    async def _redirected(self, call: RegistryRequest, authorization: str | None) -> Answer:
        """Send once, and follow the redirects of GET and HEAD; Authorization never leaves the registry."""
        for _ in range(REDIRECTS_MAX):
            if Origin.of(call.url) != self.origin:
                authorization = None  # for good: a later redirect back to the registry does not get it either
            answer = await self._once(call, authorization)
            if answer.status not in _REDIRECTS or call.method not in {"GET", "HEAD"}:
                return answer
            url = resolve(answer.headers.get("location"), request=answer.url, what="redirect's Location")
            call = replace(call, url=url)
        raise InvalidAnswerError(f"{call.method} {shown(call.url)}: more than {REDIRECTS_MAX} redirects in a row")

    async def _once(self, call: RegistryRequest, authorization: str | None) -> Answer:
        """Send one request within its rate and its time."""
        headers = dict(call.headers)
        if authorization is not None:
            headers["Authorization"] = authorization
        await self._rate_limiter.acquire()
        loop, seconds = asyncio.get_running_loop(), self.retrier.policy.timeout
        commits = call.method in {"PUT", "PATCH"}
        wait = self._commit_timeout if commits else seconds
        # httpx's read timeout starts again with each byte; a body may take as long as it needs
        deadline = asyncio.timeout(None)

        def note_sent() -> None:
            deadline.reschedule(loop.time() + wait)
            call.on_sent()

        def note_answer() -> None:
            if (until := deadline.when()) is not None:
                deadline.reschedule(min(until, loop.time() + seconds))

        body = call.body
        if body is not None and body.size:
            body = Body(body.size, partial(_noting_end, body, note_sent))
        try:
            async with deadline:
                if body is call.body:
                    note_sent()
                return await exchange(
                    self._client,
                    call.method,
                    call.url,
                    headers=headers,
                    body=body,
                    limit=call.limit,
                    streamed=call.streamed,
                    read_timeout=wait if commits else None,
                    on_answer=note_answer,
                )
        except TimeoutError as error:
            raise httpx.ReadTimeout("the answer does not end") from error


async def _noting_end(body: Body, note_sent: Callable[[], None]) -> AsyncGenerator[bytes]:
    """Yield a body, and call `note_sent` after its last bytes."""
    async with aclosing(body.open()) as parts:
        async for part in parts:
            yield part
    note_sent()
