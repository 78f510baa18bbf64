"""How a request reaches one registry: authorised, followed, repeated, and with httpx's errors as ours."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import httpx

from crossmount.errors import InvalidAnswerError
from crossmount.registry import http
from crossmount.registry.http import Answer, Body
from crossmount.registry.location import Origin, resolve
from crossmount.registry.quiet import unlogged

REDIRECTS_MAX = 10
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request, before it is known what authorises it.

    Attributes:
        body: what is sent; it is opened anew for each attempt.
        limit: how many bytes a 2xx answer may have.
        streamed: leave a 2xx answer's body unread.
        repeat: whether the request may simply be sent again after trouble.
    """

    method: str
    url: httpx.URL
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Body | None = None
    limit: int = http.ERROR_BYTES_MAX
    streamed: bool = False
    repeat: bool = True


class Sender:
    """Sends requests to one registry, and to where its answers point.

    Args:
        origin: the registry's scheme, host and port; only it is given Authorization.
        client: holds no credentials; whoever made it closes it.
    """

    def __init__(self, origin: Origin, client: httpx.AsyncClient) -> None:
        self.origin = origin
        self._client = client

    async def send(self, call: Call) -> Answer:
        """Send `call` and return the answer, whatever its status.

        Raises:
            RegistryUnreachableError: no answer, after all attempts.
            InvalidAnswerError: an answer that may not be followed, or that is too long.
        """
        with http.translated(call.method, call.url):
            answer = await self._follow(call, None)
        if answer.too_long and answer.status < 300:
            raise InvalidAnswerError(
                f"{call.method} {http.shown(call.url)}: the answer has more than {call.limit} bytes"
            )
        return answer

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
        with unlogged():
            return await http.exchange(
                self._client,
                call.method,
                call.url,
                headers=headers,
                body=call.body,
                limit=call.limit,
                streamed=call.streamed,
            )
