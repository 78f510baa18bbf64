"""The page at `/_crossmount/` of the proxy: nobody learns the name of a repository there without leave."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import bcrypt
import httpx
import pytest

from crossmount.index import Sighting
from crossmount.oci import Digest, Repository
from crossmount.proxy.server import running
from crossmount.proxy.settings import ProxySettings
from crossmount.testing import ScriptedRegistry
from support.dashboards import TODAY, AccountingIndex, Clock, layer, site_over
from support.waiting import PATIENCE

SECRET = "hidden-team"


@asynccontextmanager
async def proxy_with_page(registry: ScriptedRegistry, **settings: Any) -> AsyncIterator[httpx.AsyncClient]:
    """Run a proxy with a page over an index that names private repositories of two registries."""
    index = AccountingIndex()
    for name in (registry.address, "other.example.com"):
        index.count(today=TODAY, registry=name, prefix=SECRET, bytes_mounted=123_000_000, layers=[layer(SECRET)])
        await index.record([Sighting(Digest.of(SECRET.encode()), Repository(name, f"{SECRET}/app"), 9)])
    made = ProxySettings(upstreams=(registry.url,), port=0, **settings)
    async with (
        site_over(index, clock=Clock()) as site,
        running(made, index, page=site) as proxy,
        httpx.AsyncClient(base_url=proxy.url, timeout=PATIENCE) as client,
    ):
        yield client


PATHS = (
    "/_crossmount/",
    "/_crossmount/live",
    "/_crossmount/registry?name=other.example.com",
    f"/_crossmount/repository?registry=other.example.com&prefix={SECRET}",
    f"/_crossmount/layer?digest={Digest.of(SECRET.encode())}",
    "/_crossmount/nothing",
)


async def test_without_leave_the_page_has_no_name(scripted_registry: ScriptedRegistry) -> None:
    """By default everybody sees sums at `/_crossmount/`, and no view names a registry, a repository or a layer."""
    async with proxy_with_page(scripted_registry, page="sums") as client:
        answers = [await client.get(path) for path in PATHS]
    assert [answer.status_code for answer in answers] == [200, 200, 403, 403, 403, 404]
    assert "246<" in answers[0].text
    for answer in answers:
        assert SECRET not in answer.text
        assert "example.com" not in answer.text
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]


async def test_an_operator_may_show_names_to_everybody_who_reaches_the_proxy(
    scripted_registry: ScriptedRegistry,
) -> None:
    """With `names` every view works, for requests that name the proxy itself: DNS rebinding gets nothing."""
    async with proxy_with_page(scripted_registry, page="names") as client:
        answers = [await client.get(path) for path in PATHS]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 200, 200, 404]
        assert SECRET in answers[0].text
        rebound = await client.get("/_crossmount/", headers={"host": "attacker.example"})
        assert (rebound.status_code, SECRET in rebound.text) == (421, False)
        fetched = await client.get("/_crossmount/", headers={"sec-fetch-site": "cross-site"})
        assert fetched.status_code == 403
        linked = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
        assert (await client.get("/_crossmount/", headers=linked)).status_code == 200


@pytest.mark.parametrize("page", ["sums", "names"])
async def test_in_service_mode_only_the_proxy_s_own_callers_see_the_page(
    scripted_registry: ScriptedRegistry, tmp_path: Path, page: str
) -> None:
    """A page is behind the same password as the metrics, and a browser is asked for it."""
    callers = tmp_path / "callers"
    callers.write_text(f"ann:{bcrypt.hashpw(b's3cret', bcrypt.gensalt(4)).decode()}\n")
    async with proxy_with_page(scripted_registry, page=page, auth="service", htpasswd=callers) as client:
        for path in PATHS:
            refused = await client.get(path)
            assert refused.status_code == 401
            assert refused.headers["www-authenticate"].startswith("Basic ")
            assert SECRET not in refused.text
            assert (await client.get(path, auth=("ann", "wrong"))).status_code == 401
        shown = await client.get("/_crossmount/", auth=("ann", "s3cret"))
        assert (shown.status_code, SECRET in shown.text) == (200, page == "names")
        linked = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
        assert (await client.get("/_crossmount/", auth=("ann", "s3cret"), headers=linked)).status_code == 200
        assert (await client.get("/v2/", auth=("ann", "s3cret"), headers=linked)).status_code == 403


async def test_the_slash_may_lack(scripted_registry: ScriptedRegistry) -> None:
    """`/_crossmount` leads to the page; where there is none it is not found."""
    async with proxy_with_page(scripted_registry, page="sums") as client:
        answer = await client.get("/_crossmount")
        assert (answer.status_code, answer.headers["location"]) == (308, "/_crossmount/")
    async with proxy_with_page(scripted_registry, page="off") as client:
        assert (await client.get("/_crossmount")).status_code == 404


async def test_a_page_that_is_off_is_not_there(scripted_registry: ScriptedRegistry) -> None:
    """With `off` there is no page; the proxy's other endpoints stay."""
    async with proxy_with_page(scripted_registry, page="off") as client:
        assert (await client.get("/_crossmount/")).status_code == 404
        assert (await client.get("/_crossmount/healthz")).status_code == 200


async def test_the_proxy_s_own_endpoints_come_before_the_page(scripted_registry: ScriptedRegistry) -> None:
    """`/_crossmount/metrics` has the proxy's metrics, and is gone where they have an address of their own."""
    async with proxy_with_page(scripted_registry, page="names") as client:
        assert "crossmount_proxy_blobs" in (await client.get("/_crossmount/metrics")).text
        assert (await client.post("/_crossmount/")).status_code == 405
    async with proxy_with_page(scripted_registry, page="names", metrics_listen=("127.0.0.1", 0)) as client:
        assert (await client.get("/_crossmount/metrics")).status_code == 404
