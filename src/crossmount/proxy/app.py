"""The proxy as an ASGI application: each request is told apart, admitted, answered, counted and logged."""

import logging
import time
from collections.abc import Callable

from crossmount.errors import CredentialsError, CrossmountError
from crossmount.proxy.auth.callers import Caller
from crossmount.proxy.auth.client_mode import Authenticator
from crossmount.proxy.core import Core
from crossmount.proxy.http import own_endpoints as pages
from crossmount.proxy.http.access_log import METHODS, AccessLog
from crossmount.proxy.http.errors import ClientGoneError, RequestRefusedError, unavailable
from crossmount.proxy.http.exchange import Exchange, Message, Receive, Send
from crossmount.proxy.http.forwarding import head_blob, pass_on, put_manifest
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
    route,
    route_name,
)
from crossmount.proxy.uploads.requests import continue_upload
from crossmount.proxy.uploads.start import start_upload

_log = logging.getLogger(__name__)


class App:
    """The application.

    Args:
        core: the proxy's parts.
        authenticator: tells callers apart.
        idle: seconds that a client may be silent in the middle of something.
        clock: seconds, from any start.
        epoch: epoch seconds, for the access log.

    Attributes:
        draining: no push may begin any more, those under way go on.
        active: requests that are being answered.
    """

    def __init__(
        self,
        core: Core,
        authenticator: Authenticator,
        *,
        idle: float,
        clock: Callable[[], float] = time.monotonic,
        epoch: Callable[[], float] = time.time,
    ) -> None:
        self.core = core
        self.draining = False
        self.active = 0
        self._authenticator = authenticator
        self._idle = idle
        self._clock = clock
        self._log_access = AccessLog(epoch=epoch)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        assert scope["type"] == "http", "the server was told to speak nothing else"  # noqa: S101 a promise of ours
        exchange = Exchange(scope, receive, send, idle=self._idle)
        kind, begun = "bad", self._clock()
        self.active += 1
        try:
            check_framing(exchange.headers)
            asked = route(exchange.raw_path, exchange.query)
            kind = route_name(asked)
            await self._answer(exchange, asked)
        except ClientGoneError:
            exchange.note = "client-gone"
        except RequestRefusedError as error:
            await self._refuse(exchange, error)
        except CrossmountError as error:
            self.core.metrics.count_failure(kind, error)
            _log.warning("%s %s: %s", exchange.method, kind, error)
            await self._refuse(exchange, _in_our_words(error))
        finally:
            self.active -= 1
            self.core.metrics.count_request(exchange.method, kind, exchange.status, waited=exchange.waited)
            self._log_access.write(exchange, kind, self._clock() - begun)

    async def trouble(self) -> str | None:
        """Return why the registry does not serve; None if it does."""
        return await pages.trouble(self.core, self._authenticator)

    async def _answer(self, exchange: Exchange, asked: Route) -> None:
        if exchange.method not in METHODS:
            raise RequestRefusedError(405, "UNSUPPORTED", "this method means nothing to a registry", close=True)
        if isinstance(asked, OwnEndpoint):
            await pages.answer(self.core, self._authenticator, exchange, asked, draining=self.draining)
            return
        caller = await self._authenticator.authenticate(exchange)
        exchange.caller = caller.shown
        match asked, exchange.method:
            case BlobRoute(), "HEAD":
                await head_blob(self.core, exchange, asked, caller)
            case UploadsRoute(name=name), "POST" if self.draining and not self._goes_on(caller, name):
                raise unavailable("this proxy is about to stop: try again")
            case UploadsRoute(), "POST":
                await start_upload(self.core, exchange, asked, caller)
            case SessionRoute(), _:
                await continue_upload(self.core, exchange, asked, caller)
            case ManifestRoute(), "PUT":
                await put_manifest(self.core, exchange, asked, caller)
            case (
                (
                    ApiBase()
                    | CatalogRoute()
                    | BlobRoute()
                    | UploadsRoute()
                    | ManifestRoute()
                    | TagsRoute()
                    | ReferrersRoute()
                    | OtherRoute()
                ),
                _,
            ):
                await pass_on(self.core, exchange, asked, caller)

    def _goes_on(self, caller: Caller, name: str) -> bool:
        return self.core.sessions.is_pushing(caller.key, name)

    async def _refuse(self, exchange: Exchange, error: RequestRefusedError) -> None:
        """Answer no; an answer that has begun already can only be cut short, which the server does."""
        if exchange.status:
            exchange.note = "cut"
            return
        try:
            await exchange.refuse(error)
        except ClientGoneError:
            exchange.note = "client-gone"


def _in_our_words(error: CrossmountError) -> RequestRefusedError:
    """Return what the caller is told of an error between the proxy and the registry."""
    if isinstance(error, CredentialsError):
        return RequestRefusedError(
            403, "DENIED", "the registry does not let this proxy do that with its own credentials"
        )
    return RequestRefusedError(502, "UNAVAILABLE", "the registry gave no usable answer")
