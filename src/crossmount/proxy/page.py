"""A page for people, shown below `/_crossmount/` of the proxy, or by a server of its own.

The page is not part of the proxy: the code that builds the proxy passes it in. Its readers see this:

- Sums without names are shown to everybody who may see the metrics, which contain the same sums.
- Names of registries, repositories and layers are shown only if the operator wants it. The index may name private
  repositories of any registry, and the proxy cannot find out which of them a caller may read. With
  `--auth service` the proxy's own callers see them, with `--auth client` everybody who reaches the proxy does.
- A page of another site may lead to it, but not read it or show it in a frame: a name that is pointed here by DNS
  rebinding is refused wherever names are shown.
"""

import contextlib
import re
from collections.abc import Awaitable, Sequence
from typing import Protocol
from urllib.parse import urlsplit

from crossmount._secrets import without_userinfo
from crossmount.errors import InvalidInputError
from crossmount.proxy.auth.own_names import OwnNames
from crossmount.proxy.http.errors import ClientGoneError, RequestRefusedError
from crossmount.proxy.http.exchange import Exchange, Message, Receive, Send

_PATH = re.compile(r"(?:/[A-Za-z0-9._~-]+)*/?")


class PageAnswer(Protocol):
    """An answer of a page."""

    @property
    def status(self) -> int:
        """The HTTP status."""
        ...

    @property
    def headers(self) -> Sequence[tuple[bytes, bytes]]:
        """The headers, without the length of the body."""
        ...

    @property
    def body(self) -> bytes:
        """The content."""
        ...


class Page(Protocol):
    """A page, or several below one path."""

    def answer(self, path: str, query: bytes, *, names: bool) -> Awaitable[PageAnswer]:
        """Return the answer to a GET.

        Args:
            path: the path below the page's own, without a slash at its beginning.
            query: the query.
            names: whether names of registries, repositories and layers may be shown.
        """
        ...


async def send_page(exchange: Exchange, page: Page, path: str, *, names: bool) -> None:
    """Answer a request with a page.

    Raises:
        RequestRefusedError: the request wants to change something.
    """
    if exchange.method not in {"GET", "HEAD"}:
        raise RequestRefusedError(405, "UNSUPPORTED", "this page can only be read")
    answer = await page.answer(path, exchange.query, names=names)
    await exchange.answer(answer.status, answer.headers, b"" if exchange.method == "HEAD" else answer.body)


def page_url(text: str | None) -> str | None:
    """Check a page's URL for people, and return it with a slash at its end; None is None.

    Raises:
        InvalidInputError: it has other parts than scheme, host, port and path.
    """
    if text is None:
        return None
    try:
        parts = urlsplit(text)
        _ = parts.port  # raises ValueError for an invalid port
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in {"http", "https"} or not parts.hostname or not _PATH.fullmatch(parts.path):
        raise InvalidInputError(f"--public-url: give https://host[:port][/path]: {without_userinfo(text)[:200]!r}")
    if parts.username is not None or parts.query or parts.fragment:
        raise InvalidInputError("--public-url: give https://host[:port][/path], without a login, ? and #")
    return f"{text.rstrip('/')}/"


class PageApp:
    """The application of a server that shows a page and nothing else.

    Args:
        page: the page.
        listen: the address that the server listens on.
        public_url: the page's URL for people, if a front forwards to this server; it may end in a path, which the
            front may forward or remove.
        idle: seconds that a client may be silent.
    """

    def __init__(self, page: Page, *, listen: str, public_url: str | None, idle: float) -> None:
        parts = urlsplit(public_url or "")
        origin = None if public_url is None else f"{parts.scheme}://{parts.netloc}"
        self._page = page
        self._prefix = parts.path.strip("/")
        self._names = OwnNames.of(listen, origin, any_host=False)
        self._idle = idle

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        exchange = Exchange(scope, receive, send, idle=self._idle)
        with contextlib.suppress(ClientGoneError):
            try:
                await self._answer(exchange)
            except RequestRefusedError as error:
                await exchange.refuse(error)

    async def _answer(self, exchange: Exchange) -> None:
        self._names.check(exchange, is_page=True)
        path = exchange.raw_path.decode("latin-1").removeprefix("/")
        if self._prefix and path == self._prefix:  # links on the page are relative to the missing slash
            await exchange.answer(308, [(b"location", f"/{self._prefix}/".encode("latin-1"))])
            return
        if self._prefix:
            path = path.removeprefix(f"{self._prefix}/")
        await send_page(exchange, self._page, path, names=True)
