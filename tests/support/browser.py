"""Debian's Chromium, driven by Playwright; and axe-core, which finds what readers with disabilities miss."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

import pytest
from playwright.async_api import Browser, Page, Response, async_playwright

from support.programs import needs

_AXE = (files("axe_playwright_python") / "axe.min.js").read_text()


@dataclass(slots=True)
class Watched:
    """A page in the browser, with all that it loaded.

    Attributes:
        page: Playwright's page.
        responses: every answer that it got.
        complaints: what the browser said of errors, and of violations of the content security policy.
    """

    page: Page
    responses: list[Response] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    async def open(self, url: str) -> None:
        """Open an address, and wait until it is loaded."""
        await self.page.goto(url, wait_until="load")

    async def text(self, selector: str) -> str:
        """Return the text of an element as a reader sees it, on one line."""
        return " ".join((await self.page.inner_text(selector)).split())

    async def violations(self) -> list[str]:
        """Return what axe-core objects to: the rule, and the elements."""
        await self.page.evaluate(_AXE)
        found: list[dict[str, Any]] = await self.page.evaluate("async () => (await axe.run()).violations")
        return [f"{each['id']}: {[node['html'][:120] for node in each['nodes']]}" for each in found]


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    """Start Chromium; without one the test is skipped, or fails where CI=true."""
    async with async_playwright() as playwright:
        started = await playwright.chromium.launch(
            executable_path=needs("chromium"),
            args=["--no-sandbox"],  # tests run as root, and open nothing but their own pages
        )
        yield started
        await started.close()


@asynccontextmanager
async def watching(
    browser: Browser, *, width: int = 1280, dark: bool = False, script: bool = True
) -> AsyncIterator[Watched]:
    """Open an empty page of the browser, of this width, in light or dark, with or without JavaScript."""
    context = await browser.new_context(
        viewport={"width": width, "height": 900},
        color_scheme="dark" if dark else "light",
        java_script_enabled=script,
        bypass_csp=False,
    )
    watched = Watched(await context.new_page())
    watched.page.on("response", lambda answer: watched.responses.append(answer))  # noqa: PLW0108 it marks its handler
    watched.page.on("console", lambda message: watched.complaints.append(message.text))
    watched.page.on("pageerror", lambda error: watched.complaints.append(str(error)))
    yield watched
    await context.close()
