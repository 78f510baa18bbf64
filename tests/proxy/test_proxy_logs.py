"""The proxy's logs and metrics contain no secrets, and no text that a caller invents."""

import asyncio
import json
import logging
import threading
from pathlib import Path
from typing import Any

import bcrypt
import httpx
import pytest

from crossmount.oci import Digest
from crossmount.proxy.http.exchange import Exchange
from crossmount.testing import Fault, Reply, ScriptedRegistry
from support.proxies import begin_upload, proxy_before
from support.waiting import PATIENCE, until
from support.wire import answering, raw

DIGEST = Digest.of(b"x")


@pytest.fixture
def access_log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """Capture all log records, at every level."""
    caplog.set_level(logging.DEBUG)
    return caplog


@pytest.mark.parametrize(("given", "kept"), [([b"job-7", b"other"], b"job-7"), ([b"job-7"], b"job-7"), ([], None)])
def test_the_registry_gets_the_id_that_is_logged(given: list[bytes], kept: bytes | None) -> None:
    """The registry gets one X-Request-ID, which the log has too, however many the client sends."""

    async def nothing(*_: object) -> Any:
        """Neither send nor receive."""

    scope = {"method": "GET", "raw_path": b"/v2/", "query_string": b"", "scheme": "http"}
    exchange = Exchange(
        {**scope, "headers": [(b"x-request-id", value) for value in given]}, nothing, nothing, idle=1
    )
    assert exchange.values(b"x-request-id") == [exchange.request_id.encode()]
    assert kept in {None, exchange.request_id.encode()}


async def test_neither_credentials_nor_sessions_get_into_a_log(
    tmp_path: Path, access_log: pytest.LogCaptureFixture
) -> None:
    """No log contains credentials or session names, of answered, refused or failed requests."""
    secrets = ("hunter2", "aHVudGVyOmh1bnRlcjI=", "topsecret")
    headers = {"Authorization": "Basic aHVudGVyOmh1bnRlcjI="}
    async with ScriptedRegistry() as registry, proxy_before(registry.url, spool=tmp_path) as proxy:
        location = await begin_upload(proxy, "a", headers=headers)
        key = location.rpartition("/")[2]
        for method, path in (
            ("PATCH", location),
            ("PUT", f"{location}?digest=none"),
            ("PUT", f"{location}?digest={DIGEST}&digest={DIGEST}"),
            ("GET", f"{location}/"),
            ("GET", f"{location}%2F"),
            ("GET", f"/v2/A/blobs/uploads/{key}"),
            ("GET", "/_crossmount/token?password=topsecret"),
            ("DELETE", location),
        ):
            await proxy.client.request(method, path, headers=headers)
        registry.play(Fault(times=None, action=Reply(status=500)))
        await proxy.client.get("/v2/a/tags/list?signature=topsecret", headers=headers)
        await until(lambda: proxy.app.active == 0)
        ours = [record for record in access_log.records if not record.name.startswith(("httpx", "httpcore"))]
        written = "\n".join(map(access_log.handler.format, ours))  # without the log of this test's own client
        assert "tags/list" in written
        assert not [secret for secret in (*secrets, key) if secret in written]


async def test_a_path_cannot_write_lines_of_its_own(access_log: pytest.LogCaptureFixture) -> None:
    """Each request is one line of JSON in the access log, whatever its bytes."""
    async with answering(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n") as url, proxy_before(url) as proxy:
        for path in (b'/v2/"},{"x":"', b"/v2/%0a%0d{}", b"/v2/\\n", b"/v2/" + b"a" * 5000):
            await raw(proxy.address, b"GET " + path + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        lines = [record.getMessage() for record in access_log.records if record.name.endswith("proxy.access")]
        assert len(lines) == 4
        assert all(len(line) < 1000 and "\n" not in line and json.loads(line)["method"] == "GET" for line in lines)


async def test_labels_of_metrics_are_bounded_whatever_callers_and_registries_say() -> None:
    """Labels of metrics come from bounded sets, whatever methods, paths and statuses are sent."""
    odd = b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n"
    async with answering(*(odd % status for status in range(590, 999))) as url, proxy_before(url) as proxy:
        for number in range(100):
            await proxy.client.request("GET", f"/v2/a{number}/tags/list")
            await proxy.client.request("PROPFIND", f"/v2/a{number}/tags/list")
        page = (await proxy.client.get("/_crossmount/metrics")).text
        assert len([line for line in page.splitlines() if line.startswith("crossmount_proxy_requests")]) < 40


async def test_wrong_passwords_do_not_take_the_threads_that_spool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crowd that guesses passwords, which are slow to check, does not delay permitted callers."""
    htpasswd, over = tmp_path / "htpasswd", threading.Event()
    htpasswd.write_text("zoe:" + bcrypt.hashpw(b"zoe-pw", bcrypt.gensalt(4)).decode() + "\n")
    data, zoe = bytes(3_000_000), ("zoe", "zoe-pw")
    async with (
        ScriptedRegistry() as registry,
        proxy_before(registry.url, auth="service", htpasswd=htpasswd, spool=tmp_path / "s") as proxy,
        httpx.AsyncClient(base_url=proxy.url, timeout=PATIENCE) as crowd,
    ):
        location = await begin_upload(proxy, "a", auth=zoe)
        monkeypatch.setattr("crossmount.proxy.auth.service_mode.bcrypt.checkpw", lambda *_: not over.wait(99))
        guesses = [asyncio.create_task(crowd.get("/v2/", auth=("zoe", f"guess-{number}"))) for number in range(50)]
        try:
            await until(lambda: proxy.app.active == len(guesses))
            put = await proxy.client.put(f"{location}?digest={Digest.of(data)}", content=data, auth=zoe)
            assert put.status_code == 201
        finally:
            over.set()
            assert {answer.status_code for answer in await asyncio.gather(*guesses)} == {401}
