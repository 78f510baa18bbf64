"""Where a registry sends its events, over HTTP: known by a secret, bounded, answered before they are worked on.

An event of a kind that says nothing of layers is taken and passed over: a registry that is refused sends it again,
and distribution sends nothing else until it is taken.
"""

from crossmount.discovery import EventFeed
from crossmount.discovery.webhooks import WebhookSecrets
from crossmount.errors import InvalidInputError
from crossmount.proxy.http.errors import RequestRefusedError, unavailable
from crossmount.proxy.http.exchange import Exchange

MESSAGE_MAX = 4 * 1024 * 1024

_CHALLENGE = (b"www-authenticate", b'Basic realm="crossmount events"')


class EventReceiver:
    """Takes one registry's events.

    Args:
        feed: works on them.
        secrets: who may send some.
    """

    def __init__(self, feed: EventFeed, secrets: WebhookSecrets) -> None:
        self.feed = feed
        self._secrets = secrets

    async def answer(self, exchange: Exchange) -> None:
        """Take a message: 202 if it is taken, whatever it says.

        Raises:
            RequestRefusedError: it shows no secret (401), is no message (400, 405, 413), or too much waits,
                or the index does not answer (503).
        """
        if not self._secrets.accept(exchange.header(b"authorization")):
            raise RequestRefusedError(401, "UNAUTHORIZED", "events come with a secret", headers=[_CHALLENGE])
        if exchange.method != "POST":
            raise RequestRefusedError(405, "UNSUPPORTED", "events are sent here with POST")
        message = await exchange.read(MESSAGE_MAX)
        try:
            taken = await self.feed.accept(message)
        except InvalidInputError as error:
            raise RequestRefusedError(400, "UNSUPPORTED", str(error)) from error
        if not taken:
            why = "the index does not answer" if self.feed.holds else "too many events wait"
            raise unavailable(f"{why}: send it again")
        await exchange.answer(202)
