"""The proxy as an ASGI application: the path of each request, from its first line to the access log.

A request is parsed, its caller is authenticated, and the handler of its route answers it. The handlers of requests
that are forwarded are in `forwarding`; those of uploads and of a HEAD of a blob are in `crossmount.proxy.uploads`.
"""

import logging
import time
from collections.abc import Callable

from crossmount.errors import CredentialsError, CrossmountError
from crossmount.proxy.auth.callers import Authenticator, Caller
from crossmount.proxy.forwarding import answer_by_forwarding
from crossmount.proxy.http.errors import ClientGoneError, RequestRefusedError, unavailable, upstream_words
from crossmount.proxy.http.exchange import Exchange, Message, Receive, Send
from crossmount.proxy.http.headers import check_framing
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
from crossmount.proxy.own_endpoints import OwnEndpoints
from crossmount.proxy.tracing import METHODS, AccessLog, Tracing
from crossmount.proxy.uploads.core import Core
from crossmount.proxy.uploads.head import answer_head
from crossmount.proxy.uploads.requests import continue_upload
from crossmount.proxy.uploads.start import start_upload

_log = logging.getLogger(__name__)


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
        draining: the proxy is stopping: new pushes are refused, pushes in progress continue.
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
            _log.warning("%s %s: %s", exchange.method, name, upstream_words(error))
            await self._refuse(exchange, _refusal_of(error))
        finally:
            self.active -= 1
            self.core.metrics.count_request(exchange.method, name, exchange.status, waited=exchange.waited)
            self._access_log.write(exchange, name, self._clock() - started)
        return name

    async def _dispatch(self, exchange: Exchange, route: Route) -> None:
        if exchange.method not in METHODS:
            raise RequestRefusedError(405, "UNSUPPORTED", "registries do not know this method", close=True)
        if isinstance(route, OwnEndpoint):
            await self.endpoints.answer(exchange, route.name, draining=self.draining)
            return
        try:
            caller = await self._authenticator.authenticate(exchange)
        except RequestRefusedError as error:
            exchange.caller = "refused" if error.status in {401, 403, 421} else ""
            raise
        exchange.caller = caller.log_name
        if exchange.names_unknown_upstream:
            raise RequestRefusedError(404, "NAME_UNKNOWN", "this proxy has no such upstream")
        self.core.permissions.check(caller.name, route, exchange.method)
        match route, exchange.method:
            case BlobRoute(), "HEAD":
                await answer_head(self.core, exchange, route, caller)
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

    def _is_pushing(self, caller: Caller, name: str) -> bool:
        return self.core.sessions.is_pushing(caller.key, name)

    async def _refuse(self, exchange: Exchange, error: RequestRefusedError) -> None:
        """Send an error. An answer that has begun can only be cut off, which uvicorn does."""
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
