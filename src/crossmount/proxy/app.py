"""The proxy as an ASGI application: each request is told apart, admitted, answered, counted and logged."""

import json
import logging
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime

from crossmount.errors import CredentialsError, CrossmountError
from crossmount.proxy import pages
from crossmount.proxy.begin import begin
from crossmount.proxy.callers import Caller
from crossmount.proxy.core import Core
from crossmount.proxy.doors import Door
from crossmount.proxy.exchange import Exchange, Message, Receive, Send
from crossmount.proxy.headers import check_framing
from crossmount.proxy.passing import head_blob, pass_on, put_manifest
from crossmount.proxy.refused import ClientGoneError, RefusedError, unavailable
from crossmount.proxy.routes import (
    Base,
    BlobAt,
    Catalog,
    ManifestAt,
    Other,
    Own,
    ReferrersOf,
    Route,
    SessionAt,
    TagsOf,
    UploadsOf,
    kind_of,
    route,
)
from crossmount.proxy.uploads import go_on

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_SESSION = re.compile(rb"(/blobs/uploads/).*", re.DOTALL)
_access = logging.getLogger("crossmount.proxy.access")
_log = logging.getLogger(__name__)


class App:
    """The application.

    Args:
        core: the proxy's parts.
        door: tells callers apart.
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
        door: Door,
        *,
        idle: float,
        clock: Callable[[], float] = time.monotonic,
        epoch: Callable[[], float] = time.time,
    ) -> None:
        self.core = core
        self.draining = False
        self.active = 0
        self._door = door
        self._idle = idle
        self._clock = clock
        self._epoch = epoch

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        assert scope["type"] == "http", "the server was told to speak nothing else"  # noqa: S101 a promise of ours
        exchange = Exchange(scope, receive, send, idle=self._idle)
        kind, begun = "bad", self._clock()
        self.active += 1
        try:
            check_framing(exchange.headers)
            asked = route(exchange.raw_path, exchange.query)
            kind = kind_of(asked)
            await self._answer(exchange, asked)
        except ClientGoneError:
            exchange.note = "client-gone"
        except RefusedError as error:
            await self._refuse(exchange, error)
        except CrossmountError as error:
            self.core.metrics.failed(kind, error)
            _log.warning("%s %s: %s", exchange.method, kind, error)
            await self._refuse(exchange, _in_our_words(error))
        finally:
            self.active -= 1
            self._note(exchange, kind, self._clock() - begun)

    async def trouble(self) -> str | None:
        """Return why the registry does not serve; None if it does."""
        return await pages.trouble(self.core, self._door)

    async def _answer(self, exchange: Exchange, asked: Route) -> None:
        if exchange.method not in _METHODS:
            raise RefusedError(405, "UNSUPPORTED", "this method means nothing to a registry", close=True)
        if isinstance(asked, Own):
            await pages.answer(self.core, self._door, exchange, asked, draining=self.draining)
            return
        caller = await self._door.admit(exchange)
        exchange.caller = caller.shown
        match asked, exchange.method:
            case BlobAt(), "HEAD":
                await head_blob(self.core, exchange, asked, caller)
            case UploadsOf(name=name), "POST" if self.draining and not self._goes_on(caller, name):
                raise unavailable("this proxy is about to stop: try again")
            case UploadsOf(), "POST":
                await begin(self.core, exchange, asked, caller)
            case SessionAt(), _:
                await go_on(self.core, exchange, asked, caller)
            case ManifestAt(), "PUT":
                await put_manifest(self.core, exchange, asked, caller)
            case (
                (Base() | Catalog() | BlobAt() | UploadsOf() | ManifestAt() | TagsOf() | ReferrersOf() | Other()),
                _,
            ):
                await pass_on(self.core, exchange, asked, caller)

    def _goes_on(self, caller: Caller, name: str) -> bool:
        return self.core.sessions.pushing(caller.key, name)

    async def _refuse(self, exchange: Exchange, error: RefusedError) -> None:
        """Answer no; an answer that has begun already can only be cut short, which the server does."""
        if exchange.status:
            exchange.note = "cut"
            return
        try:
            await exchange.refuse(error)
        except ClientGoneError:
            exchange.note = "client-gone"

    def _note(self, exchange: Exchange, kind: str, seconds: float) -> None:
        if exchange.waited:
            self.core.metrics.wait_seconds.observe(exchange.waited)
        self.core.metrics.requests.labels(kind, _label(exchange.method), exchange.status).inc()
        level = logging.DEBUG if kind == "own" else logging.INFO  # probes and scrapes would fill it
        if _access.isEnabledFor(level):
            _access.log(
                level,
                "%s",
                json.dumps(
                    {
                        "time": datetime.fromtimestamp(self._epoch(), UTC).isoformat(timespec="milliseconds"),
                        "peer": exchange.peer,
                        "caller": exchange.caller,
                        "method": _label(exchange.method),
                        "route": kind,
                        "path": _shown(exchange.raw_path),
                        "status": exchange.status,
                        "received": exchange.received,
                        "sent": exchange.sent,
                        "ms": round(seconds * 1000, 1),
                        "waited_ms": round(exchange.waited * 1000, 1),
                        "note": exchange.note,
                    }
                ),
            )


def _in_our_words(error: CrossmountError) -> RefusedError:
    """Return what the caller is told of an error between the proxy and the registry."""
    if isinstance(error, CredentialsError):
        return RefusedError(403, "DENIED", "the registry does not let this proxy do that with its own credentials")
    return RefusedError(502, "UNAVAILABLE", "the registry gave no usable answer")


def _shown(path: bytes) -> str:
    """Return a path for the log; whatever became of the request, a session's name is for its caller alone."""
    return _SESSION.sub(rb"\1", path)[:512].decode("ascii", "replace")


def _label(method: str) -> str:
    """Return a method as a label: of a bounded set, whatever callers send."""
    return method if method in _METHODS else "OTHER"
