"""Clients that break the protocol, slowly or fast, and a stop during their requests."""

import asyncio
import contextlib
import os
import signal
from pathlib import Path

import httpx
import pytest

from crossmount.oci import Digest
from crossmount.proxy.http.serving import RunningServer
from crossmount.proxy.settings import ServerLimits
from crossmount.testing import RegistryOptions, ScriptedRegistry
from support.proxies import begin_upload, proxy_before
from support.scripted import manifest_of, push_manifest
from support.waiting import PATIENCE, until
from support.wire import raw

DATA = os.urandom(2_000_000)
DIGEST = Digest.of(DATA)
HURRIED = ServerLimits(idle=0.2, header_seconds=0.2, grace=0.5, header_bytes=8192)


@pytest.mark.parametrize(
    "head",
    [
        b"POST /v2/a/blobs/uploads/ HTTP/1.1\r\nHost: x\r\nContent-Length:1\r\nTransfer-Encoding:chunked\r\n\r\n0",
        b"POST /v2/a/blobs/uploads/ HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"POST /v2/a/blobs/uploads/ HTTP/1.1\r\nHost: x\r\nContent-Length: +1\r\n\r\na",
        b"POST /v2/a/blobs/uploads/ HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\na",
        b"POST /v2/a/blobs/uploads/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\na",
        b"POST /v2/a/blobs/uploads/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        b"GET /v2/ HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
        b"GET /v2/\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http://[:::/v2/ HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v2/ HTTP/1.1\r\nHost: x\r\n bad: fold\r\n\r\n",
        b"NONSENSE\r\n\r\n",
        b"TRACE /v2/ HTTP/1.1\r\nHost: x\r\n\r\n",
        b"CONNECT evil.test:443 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /v2/a/blobs/uploads/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
        b"POST /v2/a/blobs/uploads/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1;a\nX\r\n0\r\n\r\n",
        b"POST /v2/a/blobs/uploads/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\nX\n0\n\n",
        b"POST /v2/a/blobs/uploads/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nXY\r\n0\r\n\r\n",
        b"POST /v2/a/blobs/uploads/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        + b"f" * 20
        + b"\r\n",
        b"POST /v2/a/blobs/uploads/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        b"POST /v2/a/blobs/uploads/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
        b"POST /v2/a/blobs/uploads/ HTTP/1.1\r\nHost: x\r\nContent-Length: 1, 1\r\n\r\na",
        b"GET /v2/ HTTP/1.1\nHost: x\n\n",
        b"GET /v2/ HTTP/1.1\r\nHost: x\nContent-Length: 3\r\n\r\nabc",
        b"GET /v2/ HTTP/1.1\r\nHost: x\r\nA: b\r\n c: d\r\n\r\n",
        b"GET http://evil.test HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
async def test_smuggling_shapes_are_refused_and_end_the_connection(head: bytes) -> None:
    """A malformed request gets one 4xx, closes the connection, and does not reach the registry."""
    smuggled = b"GET /v2/_catalog HTTP/1.1\r\nHost: x\r\n\r\n"
    async with ScriptedRegistry() as registry, proxy_before(registry.url, limits=HURRIED) as proxy:
        answer = await raw(proxy.address, head + smuggled)
        assert answer.startswith(b"HTTP/1.1 4"), answer
        assert answer.count(b"HTTP/1.1 ") == 1
        assert registry.requests == []
        assert (await proxy.client.get("/v2/")).status_code == 200


@pytest.mark.parametrize(
    "parts",
    [
        (b"GET /v2/ HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 20_000,),
        (b"GET /v2/ HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 10_000 + b"\r\n\r\n",),
        (b"GET /v2/" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",),
    ],
)
async def test_headers_have_a_limit(parts: tuple[bytes, ...]) -> None:
    """Headers above the limit get a 431, whether they end or not."""
    async with ScriptedRegistry() as registry, proxy_before(registry.url, limits=HURRIED) as proxy:
        answer = await raw(proxy.address, *parts)
        assert answer.startswith((b"HTTP/1.1 431", b"HTTP/1.1 400")), answer
        assert registry.requests == []


@pytest.mark.parametrize(
    ("part", "status"),
    [
        (b"", b"HTTP/1.1 408"),
        (b"GET /v2/ HT", b"HTTP/1.1 408"),
        (b"GET /v2/ HTTP/1.1\r\nHost: x\r\nX-Slow: ", b"HTTP/1.1 408"),
        (b"PUT /v2/a/manifests/t HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc", b"HTTP/1.1 408"),
    ],
)
async def test_a_client_that_stops_in_the_middle_is_hung_up_on(part: bytes, status: bytes) -> None:
    """A client that stops before, in or after its headers is disconnected."""
    async with ScriptedRegistry() as registry, proxy_before(registry.url, limits=HURRIED) as proxy:
        assert (await raw(proxy.address, part)).startswith(status)
        assert proxy.app.active == 0


@pytest.mark.parametrize(
    "head",
    [
        b"PUT /v2/a/manifests/t HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n",
        b"POST /_crossmount/token HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n",
        b"POST /v2/a/blobs/uploads/ HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n",
    ],
)
async def test_small_bodies_that_drip_are_not_waited_for(head: bytes) -> None:
    """A small body that arrives byte by byte is refused after a while."""
    async with ScriptedRegistry() as registry, proxy_before(registry.url, limits=HURRIED) as proxy:
        reader, writer = await asyncio.open_connection(*proxy.address)
        writer.write(head)
        answer = asyncio.create_task(reader.read())
        async with asyncio.timeout(PATIENCE):
            while not answer.done():
                writer.write(b"x")
                await asyncio.wait([answer], timeout=HURRIED.idle / 4)
        with contextlib.suppress(ConnectionError):  # a client that is still sending may lose the answer
            assert answer.result().startswith(b"HTTP/1.1 408")
        writer.close()


async def test_a_client_that_does_not_read_is_hung_up_on() -> None:
    """A pull that the client does not read ends, and its connection to the registry with it."""
    async with ScriptedRegistry() as registry, proxy_before(registry.url, limits=HURRIED) as proxy:
        digest = registry.put_blob("a", DATA * 20)
        reader, writer = await asyncio.open_connection(*proxy.address, limit=1024)
        writer.write(f"GET /v2/a/blobs/{digest} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await reader.readexactly(100)
        await until(lambda: proxy.app.active > 0)
        await until(lambda: proxy.app.active == 0)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


@pytest.mark.parametrize("spooled", [True, False])
async def test_a_client_that_vanishes_leaves_nothing_at_work(tmp_path: Path, spooled: bool) -> None:
    """A client that vanishes during a PATCH leaves its session usable, and affects no other."""
    async with (
        ScriptedRegistry() as registry,
        proxy_before(registry.url, spool=tmp_path if spooled else None) as proxy,
    ):
        location = await begin_upload(proxy, "a")
        head = f"PATCH {location} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(DATA)}\r\n\r\n".encode()
        await raw(proxy.address, head + DATA[:300_000], wait=False)
        await until(lambda: proxy.app.active == 0)
        assert not any(session.busy for session in proxy.app.core.sessions._open.values())


async def test_expect_100_is_answered() -> None:
    """A client that sends `Expect: 100-continue` gets a 100."""
    async with ScriptedRegistry() as registry, proxy_before(registry.url) as proxy:
        head = (
            f"POST /v2/a/blobs/uploads/?digest={DIGEST} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
            f"Connection: close\r\nContent-Length: {len(DATA)}\r\n\r\n"
        ).encode()
        answer = await raw(proxy.address, head, DATA)
        assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201")


async def test_too_many_connections_are_refused() -> None:
    """Above the limit of connections a client gets a 503; later there is room again."""
    limits = ServerLimits(connections=3, grace=0.5)
    async with ScriptedRegistry() as registry, proxy_before(registry.url, limits=limits) as proxy:
        opened = [await asyncio.open_connection(*proxy.address) for _ in range(3)]
        async with httpx.AsyncClient(base_url=proxy.url) as other:
            assert (await other.get("/v2/")).status_code == 503
        for _, writer in opened:
            writer.close()
            await writer.wait_closed()


async def test_two_hundred_clients_at_once() -> None:
    """Two hundred HEADs at once all succeed, with one mount."""
    async with ScriptedRegistry(RegistryOptions()) as registry, proxy_before(registry.url) as proxy:
        digest = registry.put_blob("base", b"layer")
        await proxy.knows(digest, "base")
        limits = httpx.Limits(max_connections=200)
        async with httpx.AsyncClient(base_url=proxy.url, limits=limits, timeout=PATIENCE) as many:
            answers = await asyncio.gather(*(many.head(f"/v2/app/blobs/{digest}") for _ in range(200)))
        assert {answer.status_code for answer in answers} == {200}
        assert registry.mounts(digest) == 1


async def test_a_stop_lets_a_push_finish(tmp_path: Path) -> None:
    """After SIGTERM no push starts; a push under way goes on, with its next blob and its manifest."""
    async with (
        ScriptedRegistry() as registry,
        proxy_before(registry.url, spool=tmp_path, limits=ServerLimits(grace=10)) as proxy,
    ):
        location = await begin_upload(proxy, "a")
        proxy.running.stop()
        await until(lambda: proxy.app.draining)
        assert (await proxy.client.post("/v2/b/blobs/uploads/")).status_code == 503
        assert (await proxy.client.get("/_crossmount/readyz")).status_code == 503
        answer = await proxy.client.put(f"{location}?digest={DIGEST}", content=DATA)
        assert answer.status_code == 201
        config = await begin_upload(proxy, "a")
        assert (await proxy.client.put(f"{config}?digest={Digest.of(b'{}')}", content=b"{}")).status_code == 201
        manifest = await push_manifest(proxy.client, "a", "v1", manifest_of([Digest.of(b"{}"), DIGEST]))
        assert manifest.status_code == 201
        assert registry.uploads() == 2


async def test_a_stop_lets_a_push_of_mounts_finish(tmp_path: Path) -> None:
    """A push that has only mounted so far is under way too, and ends with its tag."""
    async with ScriptedRegistry() as registry, proxy_before(registry.url, spool=tmp_path) as proxy:
        await proxy.knows(registry.put_blob("base", DATA), "base")
        assert (await proxy.client.head(f"/v2/a/blobs/{DIGEST}")).status_code == 200
        assert (await proxy.client.post(f"/v2/b/blobs/uploads/?mount={DIGEST}&from=base")).status_code == 201
        proxy.running.stop()
        await until(lambda: proxy.app.draining)
        assert (await proxy.client.post("/v2/c/blobs/uploads/")).status_code == 503
        for name in ("a", "b"):
            config = await begin_upload(proxy, name)
            put = await proxy.client.put(f"{config}?digest={Digest.of(b'{}')}", content=b"{}")
            assert put.status_code == 201
            manifest = await push_manifest(proxy.client, name, "v1", manifest_of([Digest.of(b"{}"), DIGEST]))
            assert manifest.status_code == 201
        await until(lambda: not proxy.app.core.sessions.any_push_active())


async def test_a_stop_leaves_no_session_at_the_registry(tmp_path: Path) -> None:
    """A stop cancels the registry's session of an abandoned upload."""
    async with ScriptedRegistry() as registry:
        async with proxy_before(registry.url, spool=tmp_path, limits=ServerLimits(grace=0)) as proxy:
            await begin_upload(proxy, "a")
            assert len(registry.open_sessions) == 1
        assert not registry.open_sessions


async def test_a_signal_that_comes_twice_is_one() -> None:
    """`timeout` sends each signal twice, and the proxy still finishes the pushes in progress."""
    stops: list[str] = []

    async def some_rounds_of_the_loop() -> None:
        for _ in range(5):
            await asyncio.sleep(0)

    def ready() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)

    running = RunningServer("", lambda: stops.append("stop"), asyncio.create_task(some_rounds_of_the_loop()))
    await running.run_until_signal(ready)
    assert stops == ["stop"]


async def test_a_second_signal_does_not_wait(tmp_path: Path) -> None:
    """A second signal stops the proxy at once."""
    async with ScriptedRegistry() as registry, proxy_before(registry.url, spool=tmp_path) as proxy:
        await begin_upload(proxy, "a")
        proxy.running.stop()
        proxy.running.stop()
