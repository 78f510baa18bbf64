"""The receiver of a registry's events over HTTP: in the proxy, and as a service of its own (`crossmount events`).

Senders present a secret. The size of a message is limited, and it is answered before its events are processed. An
event that says nothing about layers is accepted and ignored: registries repeat a refused event, and distribution
sends no other event until that one is accepted.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import field
from functools import partial
from pathlib import Path

from crossmount._dataclass import dataclass
from crossmount.discovery import EventFeed
from crossmount.discovery.webhooks import WebhookSecrets
from crossmount.errors import InvalidInputError
from crossmount.index.protocol import MountableLayers
from crossmount.oci.reference import is_loopback
from crossmount.proxy.http.errors import ClientGoneError, RequestRefusedError, unavailable
from crossmount.proxy.http.exchange import Exchange, Message, Receive, Send
from crossmount.proxy.http.headers import check_framing
from crossmount.proxy.http.serving import (
    ListenAddress,
    RunningServer,
    listening,
    log_index_event,
)
from crossmount.proxy.reload import Live, Reloader
from crossmount.proxy.settings import ServerLimits
from crossmount.registry import ClientOptions

MESSAGE_MAX = 4 * 1024 * 1024
EVENT_PATHS = frozenset({b"/", b"/_crossmount/events"})
HEALTH_PATH = b"/_crossmount/healthz"

_CHALLENGE = (b"www-authenticate", b'Basic realm="crossmount events"')


class EventReceiver:
    """Receives the events of one registry.

    Args:
        feed: processes the events.
        secrets: the secrets of permitted senders.
    """

    def __init__(self, feed: EventFeed, secrets: Live[WebhookSecrets]) -> None:
        self.feed = feed
        self._secrets = secrets

    async def answer(self, exchange: Exchange) -> None:
        """Accept a message with 202, whatever its events are.

        Raises:
            RequestRefusedError: no valid secret (401), not a message (400, 405, 413), or too many events wait or
                the index does not answer (503).
        """
        if not self._secrets.value.accept(exchange.header(b"authorization")):
            raise RequestRefusedError(401, "UNAUTHORIZED", "events come with a secret", headers=[_CHALLENGE])
        if exchange.method != "POST":
            raise RequestRefusedError(405, "UNSUPPORTED", "events are sent here with POST")
        message = await exchange.read(MESSAGE_MAX)
        try:
            accepted = await self.feed.accept(message)
        except InvalidInputError as error:
            raise RequestRefusedError(400, "UNSUPPORTED", str(error)) from error
        if not accepted:
            why = "the index does not answer" if self.feed.holds else "too many events wait"
            raise unavailable(f"{why}: send it again")
        await exchange.answer(202)


@dataclass(frozen=True, slots=True, kw_only=True)
class EventListenerSettings:
    """Settings of a listener for events.

    Attributes:
        registry: the registry that sends the events, by the name that clients use.
        address: where to listen.
        secret: a file of secrets; None accepts events from any process on this machine.
        options: how to reach the registry.
        limits: limits on senders.
    """

    registry: str
    address: ListenAddress
    secret: Path | None = None
    options: ClientOptions = field(default_factory=ClientOptions)
    limits: ServerLimits = field(default_factory=ServerLimits)


class EventListener:
    """An ASGI application that receives events and nothing else.

    Args:
        receiver: receives the events.
        idle: seconds that a sender may be silent in the middle of a request.
    """

    def __init__(self, receiver: EventReceiver, *, idle: float) -> None:
        self._receiver = receiver
        self._idle = idle

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        assert scope["type"] == "http", "uvicorn is configured for HTTP alone"  # noqa: S101 a promise of ours
        exchange = Exchange(scope, receive, send, idle=self._idle)
        try:
            await self._answer(exchange)
        except ClientGoneError:
            exchange.note = "client-gone"
        except RequestRefusedError as error:
            await exchange.refuse(error)

    async def _answer(self, exchange: Exchange) -> None:
        check_framing(exchange.headers)
        if exchange.raw_path in EVENT_PATHS:
            await self._receiver.answer(exchange)
        elif exchange.raw_path == HEALTH_PATH and exchange.method == "GET":
            await exchange.answer(200, [(b"content-type", b"text/plain; charset=utf-8")], b"ok\n")
        else:
            raise RequestRefusedError(404, "NOT_FOUND", "events are sent to /_crossmount/events")


@asynccontextmanager
async def event_listener(
    settings: EventListenerSettings, index: MountableLayers
) -> AsyncIterator[tuple[RunningServer, EventFeed, Reloader]]:
    """Listen for events until the block ends.

    Raises:
        InvalidInputError: a setting is invalid, or would let any host send events.
    """
    if settings.secret is None and not is_loopback(settings.address.host):
        raise InvalidInputError(
            f"events on {settings.address.host} without a secret would come from anybody: give --secret-file, or "
            "listen on 127.0.0.1"
        )
    secret = settings.secret
    secrets = Live(lambda: WebhookSecrets() if secret is None else WebhookSecrets.read(secret))
    observer = partial(log_index_event, meanwhile="no events are taken until the index answers")
    async with EventFeed(settings.registry, index, options=settings.options, observer=observer) as feed:
        app = EventListener(EventReceiver(feed, secrets), idle=settings.limits.idle)
        async with listening(app, settings.address, settings.limits, busy=lambda: feed.waiting > 0) as server:
            yield server, feed, Reloader([secret], [secrets.prepare])


async def serve_events(
    settings: EventListenerSettings,
    index: MountableLayers,
    *,
    ready: Callable[[RunningServer], None],
) -> None:
    """Listen for events until SIGTERM or SIGINT; events that wait then are processed first.

    Raises:
        InvalidInputError: a setting is invalid, or would let any host send events.
        ListenError: the address cannot be used.
    """
    async with event_listener(settings, index) as (server, _, reloader):
        await server.run_until_signal(lambda: ready(server), on_hangup=reloader.reload)
