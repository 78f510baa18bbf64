"""The page of the demo's numbers: shown until its user ends the demo, or nobody looks any more."""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from crossmount.cli.access import is_ci
from crossmount.cli.page import running_page
from crossmount.cli.settings import Settings
from crossmount.errors import MissingExtraError
from crossmount.index import MountIndex

if TYPE_CHECKING:
    from crossmount.proxy.page import Page, PageAnswer

LOOK_SECONDS = 60.0
"""Seconds after the last request for the page. An open page asks every few seconds."""


class WatchedPage:
    """A page that knows when it was last looked at.

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
        """Wait until nobody has looked for a minute, or until the task is cancelled, which ends only the wait."""
        try:
            while (left := self._last + LOOK_SECONDS - self._clock()) > 0:
                await sleep(left)
        except asyncio.CancelledError:  # Ctrl-C: the user has seen enough
            task = asyncio.current_task()
            assert task is not None  # noqa: S101 only tasks are cancelled
            task.uncancel()


def somebody_may_look() -> bool:
    """Return whether a person started the demo, who can open a page: in a terminal, not in a CI job."""
    return not is_ci(os.environ) and sys.stdin.isatty() and sys.stdout.isatty()


@asynccontextmanager
async def shown(settings: Settings, index: MountIndex, *, wanted: bool | None) -> AsyncIterator[str | None]:
    """Yield the address of the page, and show it until nobody looks; None if there is nobody, or no page.

    Args:
        settings: the demo's settings.
        index: its index.
        wanted: whether the page is to be shown; None if a person started the demo.

    Raises:
        MissingExtraError: it is wanted, and packages of the extra `dashboard` lack.
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
