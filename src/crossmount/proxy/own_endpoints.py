"""The proxy's own endpoints below `/_crossmount/`: health, readiness, metrics, tokens, events, the page."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Collection

from crossmount.errors import CrossmountError
from crossmount.proxy.auth.callers import Authenticator
from crossmount.proxy.event_receiver import EventReceiver
from crossmount.proxy.http.errors import ClientGoneError, RequestRefusedError, upstream_words
from crossmount.proxy.http.exchange import Exchange, Message, Receive, Send
from crossmount.proxy.http.routes import OWN_PREFIX
from crossmount.proxy.page import Page, send_page
from crossmount.proxy.telemetry import Exposition
from crossmount.proxy.uploads.core import Core

_TEXT = [(b"content-type", b"text/plain; charset=utf-8")]
_READY_SECONDS = 5.0
_log = logging.getLogger(__name__)


class OwnEndpoints:
    """Answers requests to the proxy's own endpoints.

    Args:
        core: the proxy's parts.
        authenticator: answers requests for tokens.
        events: receives the registry's events; None if this proxy accepts none.
        probes: check the registry of each upstream; the proxy is ready if one answers.
        exposition: the metrics; None if they are served at an address of their own (`MetricsApp`).
        page: the page at `/_crossmount/`; None if this proxy shows none.
        page_names: whether it shows names; else it shows sums. The authenticator decides to whom.
    """

    def __init__(
        self,
        core: Core,
        authenticator: Authenticator,
        events: EventReceiver | None,
        *,
        probes: Collection[Callable[[], Awaitable[str | None]]],
        exposition: Exposition | None,
        page: Page | None = None,
        page_names: bool = False,
    ) -> None:
        self.events = events
        self._core = core
        self._authenticator = authenticator
        self._probes = probes
        self._exposition = exposition
        self._page = page
        self._page_names = page_names

    async def answer(self, exchange: Exchange, name: str, *, draining: bool) -> None:
        """Answer a request.

        Args:
            exchange: the request.
            name: the endpoint: the path below `/_crossmount/`.
            draining: whether the proxy is stopping, and so not ready.

        Raises:
            RequestRefusedError: there is no such endpoint, or it does not take this method.
        """
        if name == "token":
            if exchange.names_unknown_upstream:  # credentials for another registry are sent to none
                raise RequestRefusedError(404, "NOT_FOUND", "no such page")
            await self._authenticator.answer_token_request(exchange)
            return
        if name == "events" and self.events is not None:
            await self.events.answer(exchange)
            return
        if exchange.method not in {"GET", "HEAD"}:
            raise RequestRefusedError(405, "UNSUPPORTED", "this page can only be read")
        match name:
            case "healthz":
                await _send(exchange, 200, b"ok\n")
            case "readyz":
                status, text = await self._readiness(draining=draining)
                await _send(exchange, status, text)
            case "metrics" if self._exposition is not None:
                await self._authenticator.permit_metrics(exchange)
                await answer_metrics(exchange, self._exposition)
            case "/" if self._page is not None:  # links on the page are relative to the slash
                await exchange.answer(308, [(b"location", OWN_PREFIX.encode())])
            case _ if self._page is not None and name != "metrics":
                await self._authenticator.permit_page(exchange, names=self._page_names)
                await send_page(exchange, self._page, name, names=self._page_names)
            case _:
                raise RequestRefusedError(404, "NOT_FOUND", "no such page")

    async def registry_trouble(self) -> str | None:
        """Ask the registry for `/v2/`; return why it cannot be used, None if it can. The index is not asked."""
        core, own = self._core, self._authenticator.own_caller()
        target = core.upstream.target(b"/v2/", b"")
        auth = None if own is None else own.authorization_for(None, "GET")
        try:
            async with (
                asyncio.timeout(_READY_SECONDS),
                core.upstream.request("GET", target, headers=[], auth=auth) as response,
            ):
                if response.status_code in {200, 401}:
                    return None
                return f"{core.registry.registry} says {response.status_code} to /v2/, as no registry does"
        except CrossmountError as error:
            return upstream_words(error)
        except TimeoutError:
            return f"{core.registry.registry} does not answer within {_READY_SECONDS:g} s"

    async def _readiness(self, *, draining: bool) -> tuple[int, bytes]:
        if draining:
            return 503, b"stopping\n"
        troubles = await asyncio.gather(*(probe() for probe in self._probes))
        if None in troubles:
            return 200, b"ok\n"
        _log.info("not ready: %s", "; ".join(filter(None, troubles)))
        return 503, b"the registry does not answer as one, or not to this proxy's credentials\n"


class MetricsApp:
    """The application at `--metrics-listen`: the metrics, and nothing else.

    Args:
        exposition: the metrics.
        idle: seconds that a client may be silent.
    """

    def __init__(self, exposition: Exposition, *, idle: float) -> None:
        self._exposition = exposition
        self._idle = idle

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        exchange = Exchange(scope, receive, send, idle=self._idle)
        with contextlib.suppress(ClientGoneError):
            if exchange.raw_path in {b"/metrics", b"/_crossmount/metrics"} and exchange.method in {"GET", "HEAD"}:
                await answer_metrics(exchange, self._exposition)
            else:
                await exchange.refuse(RequestRefusedError(404, "NOT_FOUND", "only the metrics are served here"))


async def answer_metrics(exchange: Exchange, exposition: Exposition) -> None:
    """Answer with the metrics."""
    body, media_type = exposition.page()
    await exchange.answer(200, [(b"content-type", media_type)], _body_for(exchange, body))


async def _send(exchange: Exchange, status: int, text: bytes) -> None:
    await exchange.answer(status, _TEXT, _body_for(exchange, text))


def _body_for(exchange: Exchange, body: bytes) -> bytes:
    return b"" if exchange.method == "HEAD" else body
