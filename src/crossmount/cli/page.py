"""The page of an index, for the commands that show it: made, and served at an address of its own."""

from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Literal

from crossmount import __version__
from crossmount.cli.access import DEFAULT_NAMESPACE, client_options, display_url, index_url
from crossmount.cli.settings import Settings
from crossmount.errors import MissingExtraError
from crossmount.index import MountIndex
from crossmount.registry import RegistryClient

if TYPE_CHECKING:
    from crossmount.dashboard import Site
    from crossmount.proxy.http.serving import RunningServer
    from crossmount.proxy.page import Page
import asyncio
import os
import sys
import time
from collections.abc import Awaitable
from typing import TYPE_CHECKING

from crossmount.cli.access import is_ci

if TYPE_CHECKING:
    from crossmount.proxy.page import Page, PageAnswer

_EXTRA = {"jinja2", "markupsafe", "pygal", "prometheus_client", "uvicorn", "httptools"}


@contextmanager
def _extra(command: str) -> Iterator[None]:
    """Name the extra `dashboard` if one of its packages is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        raise MissingExtraError(
            f"{command} needs {error.name}, which is not installed: pip install 'crossmount[dashboard]'"
        ) from error


@asynccontextmanager
async def site_of(
    settings: Settings, index: MountIndex, *, registries: Iterable[str] = (), command: str
) -> AsyncIterator["Site"]:
    """Make the page of an index, and stop its reads when the block ends.

    Args:
        settings: the common options.
        index: the index; the caller closes it.
        registries: the registries whose latency is measured.
        command: the user's words, for the error.

    Raises:
        MissingExtraError: packages of the extra `dashboard` are missing.
    """
    with _extra(command):
        from crossmount.dashboard import IndexReader, LatencyProbes, Site  # noqa: PLC0415 packages of an extra
    namespace = settings.namespace or DEFAULT_NAMESPACE
    options = client_options(settings, patient=False)
    async with (
        IndexReader(index, namespace=namespace, address=display_url(index_url(settings))) as reader,
        LatencyProbes([RegistryClient(name, options=options) for name in registries]) as probes,
    ):
        yield Site(reader, version=__version__, latencies=probes.latencies)


@asynccontextmanager
async def page_of(
    settings: Settings, index: MountIndex | None, access: Literal["off", "sums", "names"]
) -> AsyncIterator["Site | None"]:
    """Make the page of an index for the proxy; none without an index, or without the extra `dashboard`.

    Raises:
        MissingExtraError: a page with names is wanted, and packages of the extra are missing.
    """
    if index is None or access == "off":
        yield None
        return
    async with AsyncExitStack() as stack:
        site = None
        try:
            site = await stack.enter_async_context(site_of(settings, index, command="--page names"))
        except MissingExtraError:
            if access == "names":
                raise
        yield site


@asynccontextmanager
async def running_page(
    settings: Settings,
    index: MountIndex,
    listen: tuple[str, int],
    *,
    public_url: str | None = None,
    registries: Iterable[str] = (),
    watched: Callable[["Page"], "Page"] = lambda page: page,
    command: str,
) -> AsyncIterator["RunningServer"]:
    """Serve the page of an index until the block ends.

    Args:
        settings: the common options.
        index: the index; the caller closes it.
        listen: the address to listen on.
        public_url: the URL that people use, if a reverse proxy forwards to this server.
        registries: the registries whose latency is measured.
        watched: wraps the page, to observe its requests.
        command: the user's words, for an error.

    Raises:
        MissingExtraError: packages of the extra `dashboard` are missing.
        InvalidInputError: the public URL breaks its grammar.
        ListenError: the address cannot be used.
    """
    with _extra(command):
        from crossmount.proxy.http.serving import ListenAddress, listening  # noqa: PLC0415 packages of an extra
        from crossmount.proxy.page import PageApp, page_url  # noqa: PLC0415
        from crossmount.proxy.settings import ServerLimits  # noqa: PLC0415
    limits = ServerLimits(connections=256, grace=0.0)
    url = page_url(public_url)
    async with site_of(settings, index, registries=registries, command=command) as site:
        app = PageApp(watched(site), listen=listen[0], public_url=url, idle=limits.idle)
        async with listening(app, ListenAddress(*listen), limits) as server:
            yield server


LOOK_SECONDS = 60.0
"""Seconds after the last request for the page. An open page asks every few seconds."""


class WatchedPage:
    """A page that records when it was last requested.

    Args:
        page: the page.
        clock: seconds, from any start.
    """

    def __init__(self, page: "Page", *, clock: Callable[[], float] = time.monotonic) -> None:
        self._page = page
        self._clock = clock
        self._last = clock()

    async def answer(self, path: str, query: bytes, *, names: bool) -> "PageAnswer":
        """Return the answer to a GET."""
        self._last = self._clock()
        return await self._page.answer(path, query, names=names)

    async def until_unwatched(self, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        """Wait until nobody has requested it for a minute. To cancel the task ends only this wait."""
        try:
            while (left := self._last + LOOK_SECONDS - self._clock()) > 0:
                await sleep(left)
        except asyncio.CancelledError:  # Ctrl-C: the user has seen enough
            task = asyncio.current_task()
            assert task is not None  # noqa: S101 only tasks are cancelled
            task.uncancel()


def somebody_may_look() -> bool:
    """Return whether a person who can open a page started the demo: in a terminal, not in a CI job."""
    return not is_ci(os.environ) and sys.stdin.isatty() and sys.stdout.isatty()


@asynccontextmanager
async def shown(settings: Settings, index: MountIndex, *, wanted: bool | None) -> AsyncIterator[str | None]:
    """Yield the address of the page, and serve it while somebody requests it; None if no page is served.

    Args:
        settings: the demo's settings.
        index: its index.
        wanted: whether the page is to be shown; None if a person started the demo.

    Raises:
        MissingExtraError: it is wanted, and packages of the extra `dashboard` are missing.
    """
    pages: list[WatchedPage] = []

    def watch(page: "Page") -> WatchedPage:
        pages.append(WatchedPage(page))
        return pages[-1]

    if not (somebody_may_look() if wanted is None else wanted):
        yield None
        return
    async with AsyncExitStack() as stack:
        try:
            server = await stack.enter_async_context(
                running_page(settings, index, ("127.0.0.1", 0), watched=watch, command="crossmount demo --page")
            )
        except MissingExtraError:
            if wanted:
                raise
            yield None
            return
        yield f"{server.url}/"
        await pages[0].until_unwatched()
