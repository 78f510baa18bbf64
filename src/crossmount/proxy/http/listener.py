"""The event feed as a service of its own: a small ASGI application, served as the proxy is."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from crossmount.discovery import EventFeed
from crossmount.discovery.webhooks import WebhookSecrets
from crossmount.errors import InvalidInputError
from crossmount.index.protocol import MountableLayers
from crossmount.proxy.http.errors import ClientGoneError, RequestRefusedError
from crossmount.proxy.http.event_receiver import EventReceiver
from crossmount.proxy.http.exchange import Exchange, Message, Receive, Send
from crossmount.proxy.http.headers import check_framing
from crossmount.proxy.http.serving import ListenAddress, RunningServer, is_loopback, listening, log_index_event
from crossmount.proxy.settings import ServerLimits
from crossmount.registry import ClientOptions

EVENTS = frozenset({b"/", b"/_crossmount/events"})
HEALTH = b"/_crossmount/healthz"


@dataclass(frozen=True, slots=True, kw_only=True)
class EventListenerSettings:
    """Settings of an event listener.

    Attributes:
        registry: whose events come, as clients call it.
        address: where to listen.
        secret: a file of secrets; None takes events from anybody on this machine.
        options: how to reach the registry.
    """

    registry: str
    address: ListenAddress
    secret: Path | None = None
    options: ClientOptions = field(default_factory=ClientOptions)
    limits: ServerLimits = field(default_factory=ServerLimits)


class EventListener:
    """The application.

    Args:
        hook: takes the events.
        idle: seconds that a sender may be silent in the middle of something.
    """

    def __init__(self, hook: EventReceiver, *, idle: float) -> None:
        self._hook = hook
        self._idle = idle

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        assert scope["type"] == "http", "the server was told to speak nothing else"  # noqa: S101 a promise of ours
        exchange = Exchange(scope, receive, send, idle=self._idle)
        try:
            await self._answer(exchange)
        except ClientGoneError:
            exchange.note = "client-gone"
        except RequestRefusedError as error:
            await exchange.refuse(error)

    async def _answer(self, exchange: Exchange) -> None:
        check_framing(exchange.headers)
        if exchange.raw_path in EVENTS:
            await self._hook.answer(exchange)
        elif exchange.raw_path == HEALTH and exchange.method == "GET":
            await exchange.answer(200, [(b"content-type", b"text/plain; charset=utf-8")], b"ok\n")
        else:
            raise RequestRefusedError(404, "NOT_FOUND", "events are sent to /_crossmount/events")


@asynccontextmanager
async def event_listener(
    settings: EventListenerSettings, index: MountableLayers
) -> AsyncIterator[tuple[RunningServer, EventFeed]]:
    """Listen for events until the block ends.

    Raises:
        InvalidInputError: a setting can't be used, or anybody could send events.
    """
    if settings.secret is None and not is_loopback(settings.address.host):
        raise InvalidInputError(
            f"events on {settings.address.host} without a secret would come from anybody: give --secret-file, or "
            "listen on 127.0.0.1"
        )
    secrets = WebhookSecrets() if settings.secret is None else WebhookSecrets.read(settings.secret)
    tell = partial(log_index_event, meanwhile="no events are taken until the index answers")
    async with EventFeed(settings.registry, index, options=settings.options, observer=tell) as feed:
        app = EventListener(EventReceiver(feed, secrets), idle=settings.limits.idle)
        async with listening(app, settings.address, settings.limits, busy=lambda: feed.waiting > 0) as service:
            yield service, feed


async def serve_events(
    settings: EventListenerSettings,
    index: MountableLayers,
    *,
    ready: Callable[[RunningServer], None],
) -> None:
    """Listen for events until SIGTERM or SIGINT; what waits then is worked on before it ends.

    Raises:
        InvalidInputError: see `event_listener`.
    """
    async with event_listener(settings, index) as (service, _):
        await service.run_until_signal(lambda: ready(service))
