"""The page over a real server and real pushes: its numbers are what the fleet did, and it shows the present."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.async_api import Browser, expect

from crossmount import _formatting as text
from crossmount.discovery.scan import scan
from crossmount.fleet.lease import LeaseValue
from crossmount.index import Keys, Sighting, open_index
from crossmount.oci import Digest, Repository
from crossmount.registry import ClientOptions
from crossmount.testing import ScriptedRegistry
from support.browser import watching
from support.commands import Shell
from support.dashboards import served
from support.images import make_layers, make_layout
from support.servers import Server
from support.waiting import PATIENCE, PATIENCE_MS

LAYER = Digest.of(b"a layer that is uploaded")


@contextmanager
def running_dashboard(shell: Shell, *arguments: str, **variables: str) -> Iterator[str]:
    """Run `crossmount dashboard` on a free port, and stop it as a service is stopped; yield its address."""
    with shell.start("dashboard", "--listen", "127.0.0.1:0", *arguments, **variables) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        yield line.removeprefix("crossmount dashboard: ").strip()
        process.terminate()
        _, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (0, "")


def big_numbers(page: str) -> list[int]:
    """Return the bytes saved today, in seven days and in all."""
    return [int(found) for found in re.findall(r'data-bytes="(\d+)"', page)]


def pushed(shell: Shell, registry: ScriptedRegistry, name: str, layout: Path, url: str, *more: str) -> Any:
    """Push an image with the command, and return its report."""
    dest = f"{registry.address}/{name}:1"
    done = shell("push", f"oci:{layout}", dest, "--plain-http", "--json", "--index", url, *more)
    assert done.status == 0, done.err
    return json.loads(done.out)


async def test_the_numbers_are_what_the_fleet_did(
    browser: Browser, shell: Shell, scripted_registry: ScriptedRegistry, valkey: Server, tmp_path: Path
) -> None:
    """After real pushes of two namespaces each page shows its own mounts and uploads, and nothing of the other."""
    registry, base = scripted_registry, make_layers(2, size=40_000, seed="base")
    make_layout(tmp_path / "first", [*base, *make_layers(1, size=3_000, seed="first")])
    make_layout(tmp_path / "second", [*base, *make_layers(1, size=5_000, seed="second")])
    reports = [
        await asyncio_push(shell, registry, f"{name}/app", tmp_path / image, valkey.url)
        for name, image in (("team", "first"), ("web", "second"))
    ]
    other = await asyncio_push(
        shell, registry, "elsewhere/app", tmp_path / "first", valkey.url, "--namespace", "other"
    )
    saved = sum(report["bytes"]["mounted"] for report in reports)
    uploaded = sum(report["bytes"]["uploaded"] for report in reports)
    assert saved > 0
    async with dashboard(shell, "--index", valkey.url) as url, watching(browser) as watched:
        await watched.open(url)
        assert big_numbers(await watched.page.content()) == [saved] * 3
        assert f"Uploaded {text.size(uploaded)}" in await watched.text(".legend")
        registries = await watched.text("#registries")
        assert registry.address in registries
        assert text.size(saved) in registries
        repositories = await watched.text("#repositories")
        assert "web/…" in repositories
        assert "elsewhere" not in await watched.text("main")
        share = await watched.text(".tile >> nth=0")
        assert "in 2 pushes" in share
        await watched.page.locator("#mounted a").first.click()
        where = await watched.text("#where")
        assert "team/app" in where
        assert "web/app" in where
        assert "elsewhere" not in where
    async with (
        dashboard(shell, "--index", valkey.url, "--namespace", "other") as url,
        watching(browser) as watched,
    ):
        await watched.open(url)
        assert big_numbers(await watched.page.content()) == [other["bytes"]["mounted"]] * 3
        assert "team/…" not in await watched.text("main")
        assert "namespace other" in await watched.text("header")


async def asyncio_push(
    shell: Shell, registry: ScriptedRegistry, name: str, layout: Path, url: str, *more: str
) -> Any:
    """Push in a thread: the registry runs on this event loop."""
    return await asyncio.to_thread(pushed, shell, registry, name, layout, url, *more)


@asynccontextmanager
async def dashboard(shell: Shell, *arguments: str) -> AsyncIterator[str]:
    """Run `crossmount dashboard`, without a wait of this event loop."""
    context = running_dashboard(shell, *arguments)
    url = await asyncio.to_thread(context.__enter__)
    try:
        yield url
    finally:
        await asyncio.to_thread(context.__exit__, None, None, None)


def lease(server: Server, sent: int, *, waiting: int = 0, namespace: str = "default") -> None:
    """Write the lease of an upload of 10 MB that began a minute ago, and its waiters, as pushers do."""
    keys = Keys(namespace)
    value = LeaseValue(
        token="t" * 16,
        holder="runner-7:4711",
        dest=Repository("r.example", "team/app"),
        size=10_000_000,
        since=0.0,
    )
    (now, _) = server.ask("TIME")
    content = f"{value.to_text()}\n{int(now) - 60}\n{sent}"
    server.ask("SET", keys.lease(LAYER, "r.example"), content, "EX", 600)
    for number in range(waiting):
        waiter = LeaseValue(
            token=f"w{number}" * 8,
            holder=f"runner-{number}:1",
            dest=Repository("r.example", "web/app"),
            size=1,
            since=0,
        )
        server.ask("ZADD", keys.waiters(LAYER, "r.example"), int(now) * 1000, waiter.to_text())


async def test_the_live_view_moves(browser: Browser, valkey: Server) -> None:
    """An upload, its progress, its waiters and its end appear on the open page, and another namespace's do not."""
    index = open_index(valkey.url)
    async with served(index) as page, watching(browser) as watched:
        await watched.open(page.url)
        now, count = watched.page.locator("#now"), watched.page.locator("#now-count")
        await expect(count).to_have_text("0 uploads, 0 waiting")
        lease(valkey, 2_000_000, waiting=7)
        lease(valkey, 2_000_000, namespace="other")
        await expect(count).to_have_text("1 upload, 7 waiting", timeout=PATIENCE_MS)
        await expect(now).to_contain_text("r.example/team/app")
        await expect(now).to_contain_text("by runner-7:4711")
        await expect(now).to_contain_text("2.00 MB of 10.0 MB")
        await expect(now).to_contain_text("kB/s")
        await expect(now).to_contain_text("and 2 more")
        lease(valkey, 9_000_000)
        await expect(now).to_contain_text("9.00 MB of 10.0 MB", timeout=PATIENCE_MS)
        valkey.flush()
        await expect(count).to_have_text("0 uploads, 0 waiting", timeout=PATIENCE_MS)
        assert watched.complaints == []
    await index.aclose()


async def test_the_page_survives_its_index(browser: Browser, valkey: Server) -> None:
    """While the server is gone the open page says so, and a new one opens; when it is back both show it."""
    index = open_index(valkey.url)
    async with served(index) as page, watching(browser) as watched:
        await watched.open(page.url)
        await expect(watched.page.locator("#state")).to_contain_text("Index reachable")
        valkey.stop()
        await expect(watched.page.get_by_role("alert")).to_contain_text("is unreachable", timeout=PATIENCE_MS)
        await expect(watched.page.locator("#state")).to_contain_text("Index unreachable")
        answer = await page.client.get("/")
        assert answer.status_code == 200
        assert "Index unreachable" in answer.text
        assert "The index does not say" in (await page.client.get(f"/layer?digest={LAYER}")).text
        assert 'crossmount_index_up{namespace="default"} 0.0' in (await page.client.get("/metrics")).text
        valkey.restart()
        await expect(watched.page.get_by_role("alert")).to_have_count(0, timeout=PATIENCE_MS)
        await expect(watched.page.locator("#state")).to_contain_text("Index reachable")
    await index.aclose()


async def test_hostile_values_in_redis_are_not_obeyed(browser: Browser, valkey: Server) -> None:
    """Markup, control characters and nonsense that somebody wrote into the index are text, or not there."""
    evil = '<img src=x onerror="document.title=1">'
    keys, index = Keys(), open_index(valkey.url)
    (now, _) = valkey.ask("TIME")
    content = json.dumps({"token": "t", "holder": f"{evil}\u202e", "dest": evil, "size": 9e300, "since": "x"})
    valkey.ask("SET", keys.lease(LAYER, "r.example"), f"{content}\n{now}\n{evil}", "EX", 600)
    valkey.ask("HSET", keys.traits("r.example"), "mounts", evil)
    async with served(index) as page, watching(browser) as watched:
        for view in ("", "registry?name=r.example", f"layer?digest={LAYER}"):
            await watched.open(page.url + view)
            assert evil in await watched.page.inner_text("#now")
            assert "\u202e" not in await watched.page.content()
            assert await watched.page.locator("img[src='x']").count() == 0
            assert (await watched.page.title()).endswith("crossmount")
        assert watched.complaints == []
    await index.aclose()


async def test_a_user_that_may_only_push_sees_the_page(restricted: Any) -> None:
    """A Redis user of pushers, who may not list keys, gets the accounts, and a word on what it may not see."""
    index = open_index(restricted.url)
    async with served(index) as page:
        answer = await page.client.get("/")
    await index.aclose()
    assert answer.status_code == 200
    assert "No push has been counted yet" in answer.text
    assert "Index unreachable" not in answer.text
    assert "The uploads cannot be read" in answer.text


def test_the_command_serves_the_page_until_it_is_stopped(shell: Shell) -> None:
    """The command starts with the embedded index, prints its address, answers, and ends well at SIGTERM."""
    with running_dashboard(shell) as url:
        assert url.startswith("http://127.0.0.1:")
        assert "No push has been counted yet" in httpx.get(url).text
        assert "crossmount_index_up" in httpx.get(f"{url}metrics").text


def test_the_command_prints_the_address_that_people_use(shell: Shell) -> None:
    """With --public-url that address is printed."""
    with running_dashboard(shell, "--public-url", "https://tools.example.com/crossmount/") as url:
        assert url == "https://tools.example.com/crossmount/"


async def test_only_named_registries_are_asked(shell: Shell, scripted_registry: ScriptedRegistry) -> None:
    """The latency of a registry that is named is shown; one that does not answer, and any other, has none."""
    registry = scripted_registry.address
    named = "--plain-http", "--registry", registry, "--registry", "127.0.0.1:1"
    async with dashboard(shell, *named) as url, httpx.AsyncClient() as client:
        while "not measured here" in (page := (await client.get(f"{url}registry?name={registry}")).text):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        other = (await client.get(f"{url}registry?name=127.0.0.1:1")).text
    assert re.search(r"<dt>Answers in</dt><dd>[0-9.]+ ms</dd>", page)
    assert "not measured here" in other
    assert all(request.headers.get("authorization") is None for request in scripted_registry.requests)


async def test_the_age_of_the_last_scan_is_shown(scripted_registry: ScriptedRegistry, valkey: Server) -> None:
    """After a scan the registry's row says when it was."""
    index = open_index(valkey.url)
    here = Repository(scripted_registry.address, "team/app")
    await index.record([Sighting(LAYER, here, 5)])
    async with served(index) as page:
        assert "never" in (await page.client.get(f"/registry?name={here.registry}")).text
    await scan(here, index=index, repositories=[], options=ClientOptions(plain_http=True))
    async with served(index) as page:
        words = (await page.client.get(f"/registry?name={here.registry}")).text
    assert "<dt>Last scan</dt><dd>just now</dd>" in words
    await index.aclose()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--index", "off"], "this needs an index"),
        (["--index", "redis://h:x"], "port"),
        (["--public-url", "tools.example.com"], "--public-url: give https://"),
        (["--listen", "127.0.0.1"], "is not host:port"),
        (["--listen", "192.0.2.1:80"], "cannot listen there"),
    ],
)
def test_a_wrong_option_is_one_line(shell: Shell, arguments: list[str], words: str) -> None:
    """A setting that cannot work ends the command with one line that says so."""
    done = shell("dashboard", *arguments)
    assert done.status in {1, 2}
    assert words in done.complaint
