"""How a request reaches one registry: authorised, followed, repeated, and with httpx's errors as ours."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import httpx

from crossmount.errors import InvalidAnswerError
from crossmount.registry.auth.authorizer import ANONYMOUS, Authorizer
from crossmount.registry.auth.flow import TokenRequest
from crossmount.registry.auth.scope import NOTHING, Wanted
from crossmount.registry.credentials.lookup import CredentialSource
from crossmount.registry.http import transport as http
from crossmount.registry.http.httpx_internals import unlogged
from crossmount.registry.http.location import Origin, resolve
from crossmount.registry.http.rate_limiter import RateLimiter
from crossmount.registry.http.refusal import WEB_PAGES, refusal
from crossmount.registry.http.retry import Retrier
from crossmount.registry.http.transport import Answer, Body

REDIRECTS_MAX = 10
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request, before it is known what authorises it.

    Attributes:
        name: the repository whose credentials count, "" for the registry as such.
        wanted: what it wants to be allowed.
        body: what is sent; it is opened anew for each attempt.
        limit: how many bytes a 2xx answer may have.
        streamed: leave a 2xx answer's body unread.
        repeat: whether it may simply be sent again after trouble.
    """

    method: str
    url: httpx.URL
    name: str = ""
    wanted: Wanted = NOTHING
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Body | None = None
    limit: int = http.ERROR_BYTES_MAX
    streamed: bool = False
    repeat: bool = True


class Requester:
    """Sends requests to one registry, and to where its answers point.

    Args:
        registry: the registry, normalised.
        root: its address; only that origin is given Authorization.
        client: holds no credentials; whoever made it closes it.
        retrier: when to send again.
        credentials: where credentials come from.
        trusted_realms: hosts that the user trusts with them.
        rate: requests a second at most; None sets no limit.
    """

    def __init__(
        self,
        registry: str,
        root: httpx.URL,
        *,
        client: httpx.AsyncClient,
        retrier: Retrier,
        credentials: CredentialSource,
        trusted_realms: Collection[str] = (),
        rate: float | None = None,
    ) -> None:
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
        self._rate_limiter = RateLimiter(rate, clock=retrier.clock)

    async def send(self, call: Call) -> Answer:
        """Send `call` and return the answer, whatever its status.

        Raises:
            RegistryUnreachableError: no answer, after all attempts.
            RegistryRefusedError: no token was to be had, or the registry wants to be left alone for too long.
            InvalidAnswerError: an answer that may not be followed, that is too long, or a web page that says 200.
            CredentialsError: credentials cannot be used, or would go to a stranger.
        """
        answer = await self._send(call, partial(self._authorised, call))
        if answer.is_good and not call.streamed and answer.content_type in WEB_PAGES:
            raise refusal(answer, call.method)
        return answer

    async def bare(self, call: Call) -> Answer:
        """Send `call` without Authorization, redirects followed."""
        return await self._send(call, partial(self._follow, call, None))

    async def _fetch_token(self, request: TokenRequest) -> Answer:
        """Ask a realm for a token; where it would send us is not followed."""
        headers = {"Accept": "application/json"}
        if request.form is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        call = Call(
            method=request.method,
            url=request.url,
            headers=headers,
            body=None if request.form is None else Body.of(request.form),
        )
        return await self._send(call, partial(self._once, call, request.authorization))

    async def _send(self, call: Call, send: Callable[[], Awaitable[Answer]]) -> Answer:
        """Send `call` by `send`, which may be done again if the call says so."""
        host = call.url.host
        with http.translated(call.method, call.url):
            if call.repeat:
                answer = await self.retrier.run(call.method, host, send)
            else:
                answer = await self.retrier.run_once(host, send)
        if answer.too_long and answer.is_good:
            where = f"{call.method} {http.shown(call.url)}"
            raise InvalidAnswerError(f"{where}: the answer has more than {call.limit} bytes")
        return answer

    async def _authorised(self, call: Call) -> Answer:
        """Send once; after a 401 once more, if there is something better to show."""
        if Origin.of(call.url) != self.origin:
            return await self._follow(call, None)
        used = await self.authorizer.authorize(call.name, call.wanted)
        answer = await self._follow(call, used.header)
        if answer.status == 401 and Origin.of(answer.url) == self.origin:
            challenges = answer.headers.get_list("www-authenticate")
            better = await self.authorizer.reauthorize(call.name, call.wanted, used, challenges)
            if better is not None:
                used = better
                answer = await self._follow(call, used.header)
        return answer if used is ANONYMOUS else replace(answer, sent_with=used.sent_with)

    async def _follow(self, call: Call, authorization: str | None) -> Answer:
        """Send once, and follow redirects of GET and HEAD by hand; Authorization never leaves the registry."""
        for _ in range(REDIRECTS_MAX):
            if Origin.of(call.url) != self.origin:
                authorization = None  # nor is it given again, should a later hop lead back
            answer = await self._once(call, authorization)
            if answer.status not in _REDIRECTS or call.method not in {"GET", "HEAD"}:
                return answer
            url = resolve(answer.headers.get("location"), request=answer.url, what="redirect's Location")
            call = replace(call, url=url)
        raise InvalidAnswerError(
            f"{call.method} {http.shown(call.url)}: more than {REDIRECTS_MAX} redirects in a row"
        )

    async def _once(self, call: Call, authorization: str | None) -> Answer:
        headers = dict(call.headers)
        if authorization is not None:
            headers["Authorization"] = authorization
        await self._rate_limiter.turn()
        is_small = call.body is None or call.body.size == 0  # of what is streamed only the head is waited for here
        try:
            with unlogged():
                # a read's time-out begins anew with each byte that comes
                async with asyncio.timeout(self.retrier.policy.timeout if is_small else None):
                    return await http.exchange(
                        self._client,
                        call.method,
                        call.url,
                        headers=headers,
                        body=call.body,
                        limit=call.limit,
                        streamed=call.streamed,
                    )
        except TimeoutError as error:
            raise httpx.ReadTimeout("the answer does not end") from error
