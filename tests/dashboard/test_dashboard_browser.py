"""The page in a real browser: what a person sees, with a mouse, a keyboard, a phone or a screen reader."""

import pytest
from playwright.async_api import Browser, expect

from crossmount.errors import IndexUnavailableError
from crossmount.index import Sighting
from crossmount.oci import Digest, Repository
from support.browser import watching
from support.dashboards import AccountingIndex, Clock, layer, served
from support.waiting import PATIENCE_MS

LAYER = Digest.of(b"base")
VIEWS = [
    "",
    "?days=7",
    "registry?name=registry.example.com",
    "repository?registry=registry.example.com&prefix=team",
    f"layer?digest={LAYER}",
    "nothing",
]


async def busy_index() -> AccountingIndex:
    """Return an index in which every part of the page has something to show."""
    index = AccountingIndex()
    for number in range(45):
        index.count(
            days_ago=number,
            prefix=f"team-{number % 14}",
            registry="registry.example.com" if number % 3 else "hub.example.com",
            bytes_mounted=10**9 + number * 10**8,
            blobs_mounted=9,
            bytes_existing=10**8,
            bytes_uploaded=3 * 10**8,
            ms_uploading=9000,
            layers=[layer("base", size=10**8), layer("again", "unknown", size=10**7)],
        )
    await index.record([Sighting(LAYER, Repository("registry.example.com", "team/app"), 10**8)])
    return index


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
async def test_axe_finds_nothing(browser: Browser, *, dark: bool) -> None:
    """No view has an accessibility violation, in light and in dark, and the browser complains of nothing."""
    async with served(await busy_index(), clock=Clock()) as page, watching(browser, dark=dark) as watched:
        for view in VIEWS:
            await watched.open(page.url + view)
            assert await watched.violations() == [], view
        assert [each for each in watched.complaints if "404" not in each] == []


@pytest.mark.parametrize("width", [320, 390, 768])
async def test_a_narrow_screen_shows_it_all_without_scrolling_sideways(browser: Browser, width: int) -> None:
    """On a phone no view is wider than the screen, tables scroll by themselves, and axe finds nothing."""
    async with served(await busy_index(), clock=Clock()) as page, watching(browser, width=width) as watched:
        for view in VIEWS:
            await watched.open(page.url + view)
            assert await watched.page.evaluate("document.documentElement.scrollWidth") <= width, view
        await watched.open(page.url)
        assert await watched.violations() == []


async def test_the_empty_index_looks_right(browser: Browser) -> None:
    """An index without a push shows zeros, how numbers come, and no chart of nothing."""
    async with served(AccountingIndex(), clock=Clock()) as page, watching(browser) as watched:
        await watched.open(page.url)
        await expect(watched.page.get_by_text("No push has been counted yet")).to_be_visible()
        assert await watched.page.locator(".big").all_inner_texts() == ["0\N{NO-BREAK SPACE}B"] * 3
        assert await watched.page.locator("svg.chart").count() == 0
        assert await watched.violations() == []


async def test_everything_comes_from_its_own_host_and_is_little(browser: Browser) -> None:
    """One page with all that it loads is at most 200,000 bytes in at most five requests to its own host."""
    async with served(await busy_index(), clock=Clock()) as page, watching(browser) as watched:
        await watched.open(page.url)
        sizes = [len(await each.body()) for each in watched.responses]
        assert all(each.url.startswith(page.url) for each in watched.responses)
        assert len(sizes) <= 5
        assert sum(sizes) <= 200_000


async def test_it_reads_without_javascript(browser: Browser) -> None:
    """Without a script the numbers, the chart and the table are there, and the links work."""
    async with served(await busy_index(), clock=Clock()) as page, watching(browser, script=False) as watched:
        await watched.open(page.url)
        await expect(watched.page.locator("svg.chart.wide")).to_be_visible()
        await watched.page.get_by_role("link", name="registry.example.com").first.click()
        await expect(watched.page.get_by_role("heading", level=1)).to_have_text("registry.example.com")


async def test_the_keyboard_reaches_everything(browser: Browser) -> None:
    """Tab leads to the content first, then through the links in their order, and the table unfolds with Enter."""
    async with served(await busy_index(), clock=Clock()) as page, watching(browser) as watched:
        await watched.open(page.url)
        await watched.page.keyboard.press("Tab")
        await expect(watched.page.get_by_text("Skip to the content")).to_be_focused()
        await watched.page.keyboard.press("Enter")
        await watched.page.keyboard.press("Tab")
        await expect(watched.page.get_by_role("link", name="7 days")).to_be_focused()
        summary = watched.page.get_by_text("The same as a table")
        await summary.focus()
        await watched.page.keyboard.press("Enter")
        await expect(watched.page.get_by_role("row", name="27 Nov")).to_be_visible()


async def test_pointing_at_a_day_shows_its_numbers(browser: Browser) -> None:
    """The legend has the sums, and the numbers of the day that is pointed at."""
    async with served(await busy_index(), clock=Clock()) as page, watching(browser) as watched:
        await watched.open(page.url)
        before = await watched.text(".legend")
        await watched.page.locator("svg.chart.wide .column").last.hover()
        await expect(watched.page.locator(".legend .when dd")).to_have_text("27 Nov")
        await expect(watched.page.locator(".legend .mounted dd")).to_have_text("1.00 GB")
        await watched.page.locator("h1").hover()
        assert await watched.text(".legend") == before


async def test_numbers_move_without_a_reload(browser: Browser) -> None:
    """An open page shows that the index fails, that it is back, and a push since; what is unfolded stays so."""
    index, clock = await busy_index(), Clock()
    async with served(index, clock=clock) as page, watching(browser) as watched:
        await watched.open(page.url)
        before = await watched.text("#tiles")
        await watched.page.get_by_text("The same as a table").click()
        await watched.page.evaluate("document.activeElement.blur()")
        index.outage = IndexUnavailableError("index at redis.example.com does not answer")
        clock.now += 5
        await expect(watched.page.get_by_role("alert")).to_contain_text("does not answer", timeout=PATIENCE_MS)
        assert await watched.text("#tiles") == before
        index.count(bytes_mounted=10**15)
        index.outage = None
        clock.now += 5
        await expect(watched.page.locator("#tiles")).to_contain_text("1.0", timeout=PATIENCE_MS)
        await expect(watched.page.get_by_role("alert")).to_have_count(0, timeout=PATIENCE_MS)
        await expect(watched.page.locator(".big").first).to_have_text(
            "1.00\N{NO-BREAK SPACE}PB", timeout=PATIENCE_MS
        )
        await expect(watched.page.get_by_role("row", name="27 Nov")).to_be_visible()


async def test_hostile_names_are_shown_as_text(browser: Browser) -> None:
    """Markup in names runs nothing and makes no element, also after the page has refreshed itself."""
    evil = '"><img src=x onerror="document.title=1"><script>document.title=2</script>'
    index = AccountingIndex()
    index.count(registry=evil, prefix=evil, bytes_mounted=1)
    async with served(index, namespace=evil, clock=Clock()) as page, watching(browser) as watched:
        await watched.open(page.url)
        async with watched.page.expect_response(lambda answer: "/live" in answer.url):
            pass
        assert evil in await watched.page.inner_text("main")
        assert await watched.page.locator("img[src='x']").count() == 0
        assert (await watched.page.title()).endswith("crossmount")
        assert watched.complaints == []


async def test_a_server_that_stopped_is_said(browser: Browser) -> None:
    """If the page's own server is gone, the open page says that its numbers are old."""
    async with watching(browser) as watched:
        async with served(AccountingIndex(), clock=Clock()) as page:
            await watched.open(page.url)
        await expect(watched.page.get_by_role("alert")).to_contain_text("numbers are old", timeout=PATIENCE_MS)
