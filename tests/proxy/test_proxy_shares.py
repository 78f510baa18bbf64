"""One caller's share of the proxy: of the spool, of sessions, of header bytes, of slow password checks."""

import asyncio
import os
import socket
from pathlib import Path

import bcrypt
import httpx
import pytest

from crossmount.oci import Digest
from crossmount.proxy.http.headers import answer_headers
from crossmount.proxy.settings import HEADER_SHARE, ServerLimits
from crossmount.proxy.uploads.sessions import ClientSessions
from crossmount.proxy.uploads.spool import SpoolFolder
from crossmount.proxy.uploads.spool_file import SpoolFullError
from crossmount.registry.http.location import Origin
from crossmount.testing import BasicAuth, RegistryOptions, ScriptedRegistry
from support.proxies import begin_upload, proxy_before
from support.waiting import PATIENCE
from support.wire import raw

MIB = 1024 * 1024
USERS = RegistryOptions(auth=BasicAuth(users={"big": "b", "team": "t"}))
DATA = os.urandom(MIB + 17)
DIGEST = Digest.of(DATA)
UPSTREAM = httpx.URL("https://registry.test/v2/a/tags/list")


async def test_one_callers_uploads_leave_room_in_the_spool_for_another(tmp_path: Path) -> None:
    """While one caller's uploads take their share of the spool, another's known layer is mounted."""
    limits = ServerLimits(spool_bytes=16 * MIB, grace=2.0)
    async with (
        ScriptedRegistry(USERS) as registry,
        proxy_before(registry.url, limits=limits, spool=tmp_path) as proxy,
    ):
        registry.put_blob("base/os", DATA)
        await proxy.knows(DIGEST, "base/os")
        for _ in range(4):
            location = await begin_upload(proxy, "big/x", auth=("big", "b"))
            sent = await proxy.client.patch(location, content=bytes(4 * MIB), auth=("big", "b"))
            assert sent.status_code == 202
        location = await begin_upload(proxy, "team/app", auth=("team", "t"))
        await proxy.client.patch(location, content=DATA, auth=("team", "t"))
        put = await proxy.client.put(f"{location}?digest={DIGEST}", auth=("team", "t"))
        assert put.status_code == 201
        assert registry.mounts(DIGEST) == 1


async def test_a_share_of_the_spool_is_three_times_what_is_free(tmp_path: Path) -> None:
    """A caller alone gets three quarters of the spool; what it gives back others can take."""
    area = SpoolFolder(tmp_path, limit=100)
    one, two = area.open("one"), area.open("two")
    await one.append(bytes(75))
    await one.flush()
    await two.append(bytes(18))  # three times the 7 that are free then
    await two.flush()
    for spool in (one, two):
        await spool.append(b"1")
        with pytest.raises(SpoolFullError):
            await spool.flush()
    await one.aclose()
    more = area.open("two")
    await more.append(bytes(50))
    await more.flush()
    await more.aclose()
    await two.aclose()
    assert area.taken == 0


def test_one_callers_sessions_leave_room_for_anothers() -> None:
    """A caller may have three quarters of all sessions at most."""
    sessions = ClientSessions(limit=8, limit_each=8)
    for _ in range(6):
        sessions.check_capacity("one")
        sessions.add("one", "a", "http://registry.test/s")
    with pytest.raises(Exception, match="too many uploads"):
        sessions.check_capacity("one")
    sessions.check_capacity("two")


async def test_a_long_token_passes_and_all_connections_share_a_bound() -> None:
    """64 KiB of Authorization pass; many such requests at once are refused for a while."""
    limits = ServerLimits(connections=4, grace=1.0)
    head = b"GET /v2/ HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + b"a" * (64 * 1024) + b"\r\n"
    async with ScriptedRegistry() as registry, proxy_before(registry.url, limits=limits) as proxy:
        assert (await raw(proxy.address, head, b"Connection: close\r\n\r\n")).startswith(b"HTTP/1.1 200")
        assert limits.connections * HEADER_SHARE < 3 * len(head)
        pairs = [await asyncio.open_connection(*proxy.address) for _ in range(3)]
        for _, writer in pairs:  # none of them ends its headers
            writer.write(head)
        refused = await asyncio.wait_for(pairs[-1][0].read(), PATIENCE)
        assert refused.startswith(b"HTTP/1.1 503")
        for _, writer in pairs:
            writer.close()
            await writer.wait_closed()
        assert (await raw(proxy.address, head, b"Connection: close\r\n\r\n")).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "headers",
    [
        [("Link", ",".join(f"<{n}>" for n in range(12_000)))],
        [("Link", f"<{n}>") for n in range(12_000)],
        [("Location", f"/{n}") for n in range(12_000)],
    ],
)
def test_few_urls_of_an_answer_are_rewritten(headers: list[tuple[str, str]]) -> None:
    """An upstream with thousands of URLs in its headers gets a few of them rewritten, and the rest left out."""
    kept = answer_headers(
        httpx.Headers([*headers, ("Etag", "1")]), upstream=Origin.of(UPSTREAM), asked=lambda: UPSTREAM
    )
    assert (b"etag", b"1") in kept
    assert len(kept) <= 33
    assert sum(len(value) for _, value in kept) < 1000


async def test_an_unknown_name_is_checked_like_a_known_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong password of a known name and any password of an unknown one cost the same check."""
    checked: list[int] = []

    def check(_: bytes, hashed: bytes) -> bool:
        checked.append(int(hashed.split(b"$")[2]))
        return False

    monkeypatch.setattr("crossmount.proxy.auth.service_mode.bcrypt.checkpw", check)
    file = tmp_path / "htpasswd"
    file.write_text("zoe:" + bcrypt.hashpw(b"zoe-pw", bcrypt.gensalt(5)).decode() + "\n")
    async with ScriptedRegistry() as registry, proxy_before(registry.url, auth="service", htpasswd=file) as proxy:
        for name in ("zoe", "nobody"):
            assert (await proxy.client.get("/v2/", auth=(name, "wrong"))).status_code == 401
    assert checked == [5, 5]


async def test_a_dummy_hash_admits_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown name is refused whatever the check says."""
    monkeypatch.setattr("crossmount.proxy.auth.service_mode.bcrypt.checkpw", lambda *_: True)
    file = tmp_path / "htpasswd"
    file.write_text("zoe:" + bcrypt.hashpw(b"zoe-pw", bcrypt.gensalt(4)).decode() + "\n")
    async with ScriptedRegistry() as registry, proxy_before(registry.url, auth="service", htpasswd=file) as proxy:
        assert (await proxy.client.get("/v2/", auth=("nobody", "wrong"))).status_code == 401


async def test_metrics_of_a_proxy_with_callers_are_for_its_callers(tmp_path: Path) -> None:
    """In service mode the metrics need a password or a token, as everything else does."""
    tokens = tmp_path / "tokens"
    tokens.write_text("prometheus:t0ken-of-prometheus\n")
    async with ScriptedRegistry() as registry, proxy_before(registry.url, auth="service", tokens=tokens) as proxy:
        assert (await proxy.client.get("/_crossmount/metrics")).status_code == 401
        shown = {"Authorization": "Bearer t0ken-of-prometheus"}
        assert (await proxy.client.get("/_crossmount/metrics", headers=shown)).status_code == 200
        assert (await proxy.client.get("/_crossmount/healthz")).status_code == 200


async def test_metrics_can_have_an_address_of_their_own() -> None:
    """With `--metrics-listen` the metrics are served there alone, and nothing else is."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    async with (
        ScriptedRegistry() as registry,
        proxy_before(registry.url, metrics_listen=("127.0.0.1", port)) as proxy,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as apart,
    ):
        assert (await apart.get("/metrics")).status_code == 200
        assert (await apart.get("/v2/")).status_code == 404
        assert (await proxy.client.get("/_crossmount/metrics")).status_code == 404
