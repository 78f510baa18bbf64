"""The page answers each path, escapes all text, and says what it does not know."""

import asyncio
import re
from html.parser import HTMLParser
from importlib.resources import files
from typing import Any

import pytest

from crossmount.dashboard import Site, SiteAnswer
from crossmount.errors import IndexUnavailableError
from crossmount.index import Sighting
from crossmount.index.protocol import RegistryTraits
from crossmount.oci import Digest, Repository
from support.dashboards import AccountingIndex, Clock, headers_of, layer, site_over

LAYER = Digest.of(b"base")
DOWN = IndexUnavailableError("index at redis.example.com does not answer")
VIEWS = [
    ("", b""),
    ("", b"days=7"),
    ("", b"days=400"),
    ("live", b""),
    ("registry", b"name=registry.example.com"),
    ("repository", b"registry=registry.example.com&prefix=team"),
    ("layer", f"digest={LAYER}".encode()),
]


class Text(HTMLParser):
    """The text of a page, and its elements' names."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        """Collect a tag."""
        del attrs
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        """Collect text."""
        self.words.append(data)


def text_of(answer: SiteAnswer) -> str:
    """Return the text of a page on one line."""
    parser = Text()
    parser.feed(answer.body.decode())
    return " ".join(" ".join(parser.words).split())


async def full_index() -> AccountingIndex:
    """Return an index with accounts of two registries, a layer, and traits."""
    index = AccountingIndex()
    index.count(
        bytes_mounted=4_000_000, blobs_mounted=3, bytes_uploaded=1_000_000, blobs_uploaded=1, ms_uploading=500
    )
    index.count(days_ago=3, bytes_waited=2_000_000, blobs_waited=1, bytes_existing=500, blobs_existing=1)
    index.count(days_ago=200, registry="hub.example.com", prefix="base", bytes_mounted=7_000_000_000)
    index.count(layers=[layer("base"), layer("base"), layer("again", "unreadable"), layer("again", "unreadable")])
    await index.record([Sighting(LAYER, Repository("registry.example.com", "team/app"), 1000)])
    await index.record_traits("registry.example.com", RegistryTraits(mounts=True, truthful=False))
    return index


@pytest.mark.parametrize(("path", "query"), VIEWS)
@pytest.mark.parametrize("full", [True, False], ids=["full", "empty"])
async def test_every_view_is_a_page_that_loads_nothing_foreign(path: str, query: bytes, *, full: bool) -> None:
    """Each view is HTML with a policy that allows only its own host, and refers to relative addresses alone."""
    index = await full_index() if full else AccountingIndex()
    async with site_over(index, clock=Clock()) as site:
        answer = await site.answer(path, query)
    assert answer.status == 200
    headers = headers_of(answer)
    assert headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    html = answer.body.decode()
    addresses = re.findall(r'(?:href|src|action|data-live-url)="([^"]*)"', html)
    assert not [each for each in addresses if each.startswith("/") or ":" in each.partition("?")[0]]
    assert " style=" not in html
    assert "<style" not in html
    assert not re.search(r"<script(?! src=)", html)


async def test_the_big_numbers_are_those_of_the_accounts() -> None:
    """Today, the last week and all days show the bytes of mounts and waits, and their share."""
    async with site_over(await full_index(), clock=Clock()) as site:
        html = (await site.answer("", b"")).body.decode()
    assert re.findall(r'data-bytes="(\d+)"', html) == ["4000000", "6000000", "7006000000"]
    assert "<strong>80\N{NO-BREAK SPACE}%</strong>" in html
    assert "about <strong>2.0 s</strong> of uploads saved (estimate)" in " ".join(html.split())
    assert "since 11 May 2026" in html


async def test_layers_that_were_uploaded_again_say_why() -> None:
    """A layer uploaded twice is listed with the reason and with advice; mounted ones are in their own list."""
    async with site_over(await full_index(), clock=Clock()) as site:
        words = text_of(await site.answer("", b""))
    assert "the pusher may not read its sources" in words
    assert "give the account the right to pull from them" in words
    assert f"{str(LAYER)[7:19]} 1.00 kB 2 times 2.00 kB" in words


async def test_a_layer_s_page_says_where_it_is_and_not_since_when() -> None:
    """The view of a layer has its repositories, when they were last seen, and that the index stores no more."""
    async with site_over(await full_index()) as site:
        words = text_of(await site.answer("layer", f"digest={LAYER}".encode()))
    assert "registry.example.com team/app just now" in words
    assert "does not store since when" in words
    assert "Mounted 2 times" in words
    assert "Must-mount no may be uploaded" in words


async def test_why_a_layer_was_uploaded_begins_with_the_most_frequent_reason() -> None:
    """The reasons on a layer's page are in order of how often they counted."""
    index = AccountingIndex()
    index.count(
        layers=[layer("base", "gone"), *[layer("base", "unreadable")] * 3, *[layer("base", "unknown")] * 2]
    )
    async with site_over(index, clock=Clock()) as site:
        words = text_of(await site.answer("layer", f"digest={LAYER}".encode()))
    assert re.findall(r"Uploaded (\d) times?:", words) == ["3", "2", "1"]


async def test_a_long_list_of_registries_is_folded() -> None:
    """The registries that saved most are shown, the others open with a click."""
    index = AccountingIndex()
    for number in range(13):
        index.count(registry=f"r{number}.example.com", bytes_mounted=1000 * (number + 1), blobs_mounted=1)
    async with site_over(index, clock=Clock()) as site:
        html = (await site.answer("", b"")).body.decode()
    shown, _, folded = html.partition('id="registries"')[2].partition("<summary>3 more</summary>")
    assert "r12.example.com" in shown
    assert "r0.example.com" in folded
    assert "r0.example.com" not in shown


async def test_a_layer_that_nobody_knows_is_said_to_be_unknown() -> None:
    """The view of an unknown layer is a page that says so."""
    async with site_over(AccountingIndex(), clock=Clock()) as site:
        answer = await site.answer("layer", f"digest={Digest.of(b'other')}".encode())
    assert answer.status == 200
    assert "knows no repository that has this layer" in text_of(answer)


async def test_a_registry_s_page_has_its_own_numbers_and_traits() -> None:
    """The view of a registry counts nothing of another, and says what was seen of it."""
    async with site_over(
        await full_index(), clock=Clock(), latencies=lambda: {"registry.example.com": 0.0234}
    ) as site:
        answer = await site.answer("registry", b"name=registry.example.com")
    assert re.findall(r'data-bytes="(\d+)"', answer.body.decode()) == ["4000000", "6000000", "6000000"]
    words = text_of(answer)
    assert "Mounts yes" in words
    assert "Keeps its word no" in words
    assert "Finds by itself not seen yet" in words
    assert "Answers in 23 ms" in words


async def test_a_prefix_s_page_has_its_own_numbers() -> None:
    """The view of repositories counts those whose names begin so, on their registry."""
    async with site_over(await full_index(), clock=Clock()) as site:
        own = await site.answer("repository", b"registry=hub.example.com&prefix=base")
        other = await site.answer("repository", b"registry=registry.example.com&prefix=base")
    assert re.findall(r'data-bytes="(\d+)"', own.body.decode()) == ["0", "0", "7000000000"]
    assert re.findall(r'data-bytes="(\d+)"', other.body.decode()) == ["0", "0", "0"]


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("nothing", b""),
        ("static/page.css", b""),
        ("../site.py", b""),
        ("registry", b""),
        ("registry", b"name=%3Cscript%3E"),
        ("registry", b"name=%ff"),
        ("registry", b"name=" + b"a" * 5000),
        ("repository", b"registry=r.example"),
        ("repository", b"registry=%3Cb%3E&prefix=x"),
        ("repository", b"registry=r.example&prefix=" + b"x" * 300),
        ("layer", b"digest=sha256:1"),
        ("layer", b"digest=%22%3E%3Cscript%3Ealert(1)%3C/script%3E"),
        ("layer", b"&".join([b"digest=x"] * 50)),
    ],
)
async def test_what_is_not_there_is_a_page_that_says_so(path: str, query: bytes) -> None:
    """An unknown path and an invalid name are 404, with the way back, and repeat nothing that was sent."""
    async with site_over(AccountingIndex(), clock=Clock()) as site:
        answer = await site.answer(path, query)
    assert answer.status == 404
    html = answer.body.decode()
    assert 'href="./"' in html
    assert "alert(1)" not in html


async def test_hostile_names_stay_text() -> None:
    """Markup in what registries and Redis hold is shown, not obeyed."""
    evil = '"><script>alert(1)</script><img src=x onerror=alert(2)>'
    index = AccountingIndex()
    index.count(registry=evil, prefix=evil, bytes_mounted=1)
    index.count(registry="*", prefix="*", bytes_mounted=1)
    async with site_over(index, namespace=evil, clock=Clock()) as site:
        for path, query in VIEWS:
            body = (await site.answer(path, query)).body
            assert b"<script>" not in body
            assert b"<img src=x" not in body
        assert evil in text_of(await site.answer("", b""))


async def test_a_view_without_names_has_none() -> None:
    """Where names may not be seen, the overview has sums alone, and the views of names are refused."""
    index = await full_index()
    async with site_over(index, clock=Clock()) as site:
        answer = await site.answer("", b"", names=False)
        live = await site.answer("live", b"", names=False)
        refused = [await site.answer(path, query, names=False) for path, query in VIEWS[4:]]
        metrics = await site.answer("metrics", b"", names=False)
    html = (answer.body + live.body).decode()
    assert re.findall(r'data-bytes="(\d+)"', html) == ["4000000", "6000000", "7006000000"]
    for name in ("registry.example.com", "hub.example.com", "team", "redis.example.com", str(LAYER)[7:19]):
        assert name not in html, name
    assert [each.status for each in (*refused, metrics)] == [403] * 4


async def test_a_view_that_anybody_may_see_is_made_once_a_second() -> None:
    """Requests of the same second get the same page, whatever else their query has; the next second a new one."""
    index, clock = await full_index(), Clock()
    async with site_over(index, clock=clock) as site:
        first, same = await asyncio.gather(*(site.answer("", b"", names=False) for _ in range(2)))
        assert same is first
        assert await site.answer("", b"days=30&x=1", names=False) is first
        assert await site.answer("", b"days=7", names=False) is not first
        live = await site.answer("live", b"registry=registry.example.com", names=False)
        assert await site.answer("live", b"", names=False) is live
        clock.now += 1
        assert await site.answer("", b"", names=False) is not first


async def test_a_view_with_names_is_made_once_a_second_too() -> None:
    """All readers who may see names see the same, so requests of the same second share a page."""
    index, clock = await full_index(), Clock()
    async with site_over(index, clock=clock) as site:
        first, same = await asyncio.gather(*(site.answer("", b"days=30") for _ in range(2)))
        assert same is first
        assert await site.answer("", b"days=7") is not first
        assert await site.answer("", b"days=30", names=False) is not first
        clock.now += 1
        assert await site.answer("", b"days=30") is not first


async def test_a_view_without_names_does_not_say_where_the_index_is() -> None:
    """Where names may not be seen, an outage is said without the index's address, which its error has."""
    index = await full_index()
    index.outage = DOWN
    async with site_over(index, clock=Clock()) as site:
        words = text_of(await site.answer("", b"", names=False)) + text_of(
            await site.answer("live", b"", names=False)
        )
    assert "does not give its accounts" in words
    assert "redis.example.com" not in words


async def test_an_index_that_is_down_is_said_and_comes_back() -> None:
    """While the accounts cannot be read the page says so and keeps its last numbers, with their time."""
    index, clock = await full_index(), Clock()
    async with site_over(index, clock=clock) as site:
        assert b"outage" not in (await site.answer("", b"")).body.replace(b'id="outage"', b"").replace(
            b'data-live="outage"', b""
        )
        index.outage = DOWN
        clock.now += 60
        words = text_of(await site.answer("", b""))
        assert "index at redis.example.com does not answer" in words
        assert "The numbers below are those of 12:00:00 UTC" in words
        assert "4.00 MB" in words
        index.outage = None
        clock.now += 60
        assert "does not answer" not in text_of(await site.answer("", b""))


async def test_an_index_that_was_never_up_has_no_numbers() -> None:
    """Without a single reading the page says that there is nothing to show, on every view."""
    index = AccountingIndex()
    index.outage = DOWN
    async with site_over(index, clock=Clock()) as site:
        for path, query in VIEWS:
            answer = await site.answer(path, query)
            assert answer.status == 200
            assert "There are no numbers to show" in text_of(answer)


async def test_files_are_kept_by_browsers_and_named_by_their_content() -> None:
    """The style sheet and the script are answered as they are in the package, to be kept for a year."""
    async with site_over(AccountingIndex(), clock=Clock()) as site:
        html = (await site.answer("", b"")).body.decode()
        for name, kind in (
            ("page.css", "text/css"),
            ("page.js", "text/javascript"),
            ("icon.svg", "image/svg+xml"),
        ):
            assert re.search(rf'"{re.escape(name)}\?v=[0-9a-f]{{12}}"', html)
            answer = await site.answer(name, b"v=1")
            assert answer.body == (files("crossmount.dashboard") / "static" / name).read_bytes()
            assert headers_of(answer)["content-type"].startswith(kind)
            assert "immutable" in headers_of(answer)["cache-control"]


async def test_a_full_page_is_small(site_full: Site) -> None:
    """A page with all rows and a year of days, with all that it loads, has fewer than 200,000 bytes."""
    total = 0
    for path, query in (("", b"days=90"), ("page.css", b""), ("page.js", b""), ("icon.svg", b"")):
        total += len((await site_full.answer(path, query)).body)
    assert total < 200_000


@pytest.fixture
async def site_full() -> Any:
    """Return the page of an index with more rows than it shows."""
    index = AccountingIndex()
    for number in range(400):
        registry, prefix = f"registry-{number % 60}.example.com", f"prefix-{number}"
        layers = [layer(str(number % 30), fate) for fate in ("mounted", "unknown", "small")]
        index.count(
            days_ago=number,
            registry=registry,
            prefix=prefix,
            bytes_mounted=number * 10**9,
            bytes_existing=number * 10**8,
            bytes_uploaded=10**9,
            layers=layers,
        )
        index.count(days_ago=number % 60, registry=registry, prefix=prefix, bytes_mounted=5 * 10**7, layers=layers)
    async with site_over(index, clock=Clock()) as site:
        yield site
