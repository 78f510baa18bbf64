"""The proxy as an ASGI application: the path of each request, from its first line to the access log.

A request is parsed, its caller is authenticated, and the handler of its route answers it. The handler of a HEAD of
a blob is here; those of requests that are forwarded are in `forwarding`, those of uploads in
`crossmount.proxy.uploads`.
"""

import logging
import time
from collections.abc import Callable

from crossmount._dataclass import dataclass
from crossmount.errors import CredentialsError, CrossmountError
from crossmount.oci import Repository
from crossmount.proxy.auth.callers import Authenticator, Caller
from crossmount.proxy.forwarding import answer_by_forwarding
from crossmount.proxy.http.errors import ClientGoneError, RequestRefusedError, unavailable
from crossmount.proxy.http.exchange import Exchange, Message, Receive, Send
from crossmount.proxy.http.headers import HeaderPairs, check_framing, request_headers
from crossmount.proxy.http.routes import (
    ApiBase,
    BlobRoute,
    CatalogRoute,
    ManifestRoute,
    OtherRoute,
    OwnEndpoint,
    ReferrersRoute,
    Route,
    SessionRoute,
    TagsRoute,
    UploadsRoute,
    parse_route,
    route_name,
)
from crossmount.proxy.log import METHODS, AccessLog
from crossmount.proxy.own_endpoints import OwnEndpoints
from crossmount.proxy.tracing import Tracing
from crossmount.proxy.uploads.core import Core
from crossmount.proxy.uploads.mounting import MountAttempt
from crossmount.proxy.uploads.requests import continue_upload
from crossmount.proxy.uploads.start import start_upload

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _HeadAnswer:
    """The registry's answer to a HEAD of a blob."""

    status: int
    headers: HeaderPairs
    size: int | None


class App:
    """The application.

    Args:
        core: the proxy's parts.
        authenticator: identifies callers.
        endpoints: the proxy's own endpoints.
        name: the name of the upstream in the log.
        tracing: makes spans; None makes none.
        idle: seconds that a client may be silent in the middle of a request or an answer.
        clock: seconds, from any start.
        epoch: epoch seconds, for the access log.

    Attributes:
        core: the proxy's parts.
        endpoints: the proxy's own endpoints.
        draining: the proxy is stopping: new pushes are refused, pushes under way go on.
        active: how many requests are being answered.
    """

    def __init__(
        self,
        core: Core,
        authenticator: Authenticator,
        endpoints: OwnEndpoints,
        *,
        name: str = "",
        tracing: Tracing | None = None,
        idle: float,
        clock: Callable[[], float] = time.monotonic,
        epoch: Callable[[], float] = time.time,
    ) -> None:
        self.core = core
        self.draining = False
        self.active = 0
        self.endpoints = endpoints
        self._authenticator = authenticator
        self._tracing = tracing
        self._idle = idle
        self._clock = clock
        self._access_log = AccessLog(name, epoch=epoch)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request, then count and log it."""
        assert scope["type"] == "http", "uvicorn is configured for HTTP alone"  # noqa: S101 a promise of ours
        exchange = Exchange(scope, receive, send, idle=self._idle)
        if self._tracing is None:
            await self._answer(exchange)
            return
        with self._tracing.request(exchange) as name_route:
            name_route(await self._answer(exchange))

    async def _answer(self, exchange: Exchange) -> str:
        """Answer a request, count it and log it; return the name of its route."""
        route: Route = OtherRoute()
        name, started = "bad", self._clock()
        self.active += 1
        try:
            check_framing(exchange.headers)
            route = parse_route(exchange.raw_path, exchange.query)
            name = route_name(route)
            await self._dispatch(exchange, route)
        except ClientGoneError:
            exchange.note = "client-gone"
        except RequestRefusedError as error:
            exchange.note = exchange.note or "refused"
            await self._refuse(exchange, error)
        except CrossmountError as error:
            self.core.metrics.count_failure(name, error)
            _log.warning("%s %s: %s", exchange.method, name, error)
            await self._refuse(exchange, _refusal_of(error))
        finally:
            self.active -= 1
            if isinstance(route, UploadsRoute | SessionRoute):
                self.core.permissions.count_bytes(route, exchange.received)
            self.core.metrics.count_request(exchange.method, name, exchange.status, waited=exchange.waited)
            self._access_log.write(exchange, name, self._clock() - started)
        return name

    async def _dispatch(self, exchange: Exchange, route: Route) -> None:
        if exchange.method not in METHODS:
            raise RequestRefusedError(405, "UNSUPPORTED", "registries do not know this method", close=True)
        if isinstance(route, OwnEndpoint):
            await self.endpoints.answer(exchange, route.name, draining=self.draining)
            return
        if exchange.names_unknown_upstream:
            raise RequestRefusedError(404, "NAME_UNKNOWN", "this proxy has no such upstream")
        try:
            caller = await self._authenticator.authenticate(exchange)
        except RequestRefusedError as error:
            exchange.caller = "refused" if error.status in {401, 403, 421} else ""
            raise
        exchange.caller = caller.log_name
        self.core.permissions.check(caller.name, route, exchange.method)
        match route, exchange.method:
            case BlobRoute(), "HEAD":
                await self._head_blob(exchange, route, caller)
            case UploadsRoute(name=name), "POST" if self.draining and not self._is_pushing(caller, name):
                raise unavailable("this proxy is about to stop: try again")
            case UploadsRoute(), "POST":
                await start_upload(self.core, exchange, route, caller)
            case SessionRoute(), _:
                await continue_upload(self.core, exchange, route, caller)
            case (
                ApiBase()
                | CatalogRoute()
                | BlobRoute()
                | UploadsRoute()
                | ManifestRoute()
                | TagsRoute()
                | ReferrersRoute()
                | OtherRoute(),
                _,
            ):
                await answer_by_forwarding(self.core, exchange, route, caller)

    async def _head_blob(self, exchange: Exchange, route: BlobRoute, caller: Caller) -> None:
        """Answer whether a repository has a blob, after an attempt to mount a missing one.

        1. Ask the registry.
        2. On 404, mount the blob from a repository that the index names, unless a client deleted it from here.
        3. If the caller's token is too narrow for the mount, ask for a wider one, once.
        4. If the mount failed and somebody is uploading the blob, wait for the upload and mount it then.
        5. After a mount, ask the registry again. Another 404 shows that the registry's 201 was not true.

        The answer is always the registry's own, the first or the second.
        """
        core, dest = self.core, self.core.repository(route.name)
        attempt: MountAttempt | None = None
        async with core.heads:
            head = await self._ask_head(exchange, dest, caller)
            if head.status == 404:
                attempt = await core.mounter.mount(caller, dest, route.digest, restore_deleted=False)
        if attempt is not None and not attempt.deleted:
            await core.wider_tokens.ask_once(exchange, caller, attempt)
            outcome = await core.turns.wait_and_mount(caller, attempt)
            if outcome is not None:
                core.sessions.note_push(caller.key, route.name)
                exchange.note, exchange.waited = outcome.label, outcome.waited
                async with core.heads:
                    head = await self._ask_head(exchange, dest, caller)
                if head.status == 404 and outcome.mounted is not None:
                    await core.recorder.record_false_mount(dest.registry)
        if head.status == 200:
            core.metrics.count_blob(exchange.note or "existing", head.size)
            core.recorder.record_blob(dest, route.digest, head.size)
        await exchange.start(head.status, head.headers)
        await exchange.write(b"", more=False)

    async def _ask_head(self, exchange: Exchange, dest: Repository, caller: Caller) -> _HeadAnswer:
        upstream = self.core.upstream
        async with upstream.request(
            "HEAD",
            upstream.target(exchange.raw_path, exchange.query),
            headers=request_headers(exchange.headers),
            auth=caller.authorization_for(dest, "HEAD"),
        ) as response:
            length = response.headers.get("content-length", "")
            size = int(length) if length.isdecimal() else None
            return _HeadAnswer(response.status_code, upstream.answer_headers(exchange, response), size)

    def _is_pushing(self, caller: Caller, name: str) -> bool:
        return self.core.sessions.is_pushing(caller.key, name)

    async def _refuse(self, exchange: Exchange, error: RequestRefusedError) -> None:
        """Send an error. An answer that has begun can only be cut short, which uvicorn does."""
        if exchange.status:
            exchange.note = "cut"
            return
        try:
            await exchange.refuse(error.for_method(exchange.method))
        except ClientGoneError:
            exchange.note = "client-gone"


def _refusal_of(error: CrossmountError) -> RequestRefusedError:
    """Return the client's answer for an error between the proxy and the registry."""
    if isinstance(error, CredentialsError):
        return RequestRefusedError(
            403, "DENIED", "the registry does not let this proxy do that with its own credentials"
        )
    return RequestRefusedError(502, "UNAVAILABLE", "the registry gave no usable answer")
