"""Connections that clients keep open: each ends, and none takes more than its share of memory."""

import asyncio
import contextlib
import socket

import httpx
import pytest

from crossmount.proxy.settings import ServerLimits
from crossmount.testing import ScriptedRegistry
from support.proxies import ProxyUnderTest, error_code, proxy_before
from support.waiting import PATIENCE, until

HURRIED = ServerLimits(idle=0.3, header_seconds=0.3, grace=0.5)
ALONE = ServerLimits(connections=1, idle=0.3, header_seconds=30, keep_alive=30, grace=0.5)
CHUNKED = b"PUT /v2/a/manifests/t HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
HEALTH = b"GET /_crossmount/healthz HTTP/1.1\r\nHost: x\r\n"


def unreading(proxy: ProxyUnderTest, request: bytes) -> socket.socket:
    """Send a request on a socket with a small buffer, and never read from it."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(proxy.address)
    sock.sendall(request)
    return sock


async def has_room(proxy: ProxyUnderTest) -> None:
    """Wait until a proxy that serves one connection serves another one."""
    async with asyncio.timeout(PATIENCE):
        while (await proxy.client.get("/v2/")).status_code == 503:  # noqa: ASYNC110 room has no event
            await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (HEALTH + b"\r\n", b"\r\n"),
        (HEALTH + b"Content-Length: 1000000\r\n\r\n", b"a"),
        (HEALTH + b"Connection: upgrade\r\nUpgrade: h2c\r\n\r\n", b"a"),
        (HEALTH + b"Transfer-Encoding: chunked\r\n\r\n", b"1;aaaa"),
    ],
)
async def test_what_follows_an_answer_holds_the_connection_for_a_while_only(first: bytes, then: bytes) -> None:
    """An empty line, the rest of a body or bytes that are not HTTP do not keep a connection open."""
    async with ScriptedRegistry() as registry, proxy_before(registry.url, limits=HURRIED) as proxy:
        reader, writer = await asyncio.open_connection(*proxy.address)
        writer.write(first)
        answer = await reader.readuntil(b"ok\n")
        assert answer.startswith(b"HTTP/1.1 200")
        writer.write(then)
        with contextlib.suppress(ConnectionError):
            rest = await asyncio.wait_for(reader.read(), PATIENCE)
            assert b" 408 " not in rest, "nothing was asked that could be answered"
        writer.close()


async def test_an_answer_that_nobody_reads_ends_with_its_connection() -> None:
    """A connection ends if its client does not read a large answer."""
    async with ScriptedRegistry() as registry, proxy_before(registry.url, limits=ALONE) as proxy:
        digest = registry.put_blob("a", bytes(20_000_000))
        with unreading(proxy, f"GET /v2/a/blobs/{digest} HTTP/1.1\r\nHost: x\r\n\r\n".encode()):
            await until(lambda: proxy.app.active > 0)
            await has_room(proxy)


async def test_small_answers_that_nobody_reads_end_too() -> None:
    """A connection ends if its client does not read many small answers, which all fit into the proxy's buffer."""
    async with ScriptedRegistry() as registry, proxy_before(registry.url, limits=ALONE) as proxy:
        request = b"GET /_crossmount/metrics HTTP/1.1\r\nHost: x\r\n\r\n"
        with unreading(proxy, request * 1000):
            await until(lambda: proxy.app.active > 0)
            await has_room(proxy)


async def test_trailers_are_bounded() -> None:
    """Trailers are bounded, in many lines or in one."""
    limits = ServerLimits(grace=0.5)
    async with ScriptedRegistry() as registry, proxy_before(registry.url, limits=limits) as proxy:
        for line in (b"X-A: " + b"b" * 1000 + b"\r\n", b"b" * 1000):
            reader, writer = await asyncio.open_connection(*proxy.address)
            writer.write(
                b"PUT /v2/a/manifests/t HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-B: "
            )
            with contextlib.suppress(ConnectionError):
                for _ in range(1000):
                    writer.write(line * 100)
                    await writer.drain()
                pytest.fail("the proxy took 100 MB of trailers")
            del reader
            writer.close()


async def test_a_trailer_is_no_header() -> None:
    """A trailer never becomes a header, not even of a request that waits in the pipeline."""
    async with ScriptedRegistry() as registry, proxy_before(registry.url) as proxy:
        reader, writer = await asyncio.open_connection(*proxy.address)
        writer.write(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n")
        writer.write(CHUNKED + b"Connection: close\r\n\r\n1\r\n{\r\n0\r\nAuthorization: Basic YTpi\r\n\r\n")
        answers = await asyncio.wait_for(reader.read(), PATIENCE)
        writer.close()
        assert answers.count(b"HTTP/1.1 ") == 2
        assert [record.auth_scheme for record in registry.requests] == ["", ""]


@pytest.mark.parametrize(
    "then", [b"GET /v2/ HT", b"NONSENSE\r\n\r\n", b"GET /v2/ HTTP/1.1\r\nX: " + b"a" * 10_000]
)
async def test_no_refusal_gets_into_the_middle_of_an_answer(then: bytes) -> None:
    """A malformed request during an answer cuts that answer, and adds nothing to it."""
    limits = ServerLimits(header_seconds=0.3, header_bytes=8192, grace=0.5)
    async with ScriptedRegistry() as registry, proxy_before(registry.url, limits=limits) as proxy:
        digest = registry.put_blob("a", bytes(20_000_000))
        reader, writer = await asyncio.open_connection(*proxy.address, limit=1024)
        writer.write(f"GET /v2/a/blobs/{digest} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await reader.readuntil(b"\r\n\r\n")
        writer.write(then)
        await until(lambda: proxy.app.active == 0)
        body = bytearray()
        with contextlib.suppress(ConnectionError):
            while part := await reader.read(1 << 20):
                body += part
        writer.close()
        assert not body.strip(b"\0")
        assert len(body) < 20_000_000


async def test_the_limit_is_how_many_are_served() -> None:
    """With a limit of one connection, the second one gets an error of the specification."""
    async with (
        ScriptedRegistry() as registry,
        proxy_before(registry.url, limits=ServerLimits(connections=1, grace=0.5)) as proxy,
    ):
        assert (await proxy.client.get("/v2/")).status_code == 200
        async with httpx.AsyncClient(base_url=proxy.url) as other:
            refused = await other.get("/v2/")
        assert (refused.status_code, error_code(refused)) == (503, "UNAVAILABLE")
        assert (await proxy.client.get("/v2/")).status_code == 200


async def test_far_above_the_limit_connections_are_hung_up_on() -> None:
    """Idle connections cannot take all file descriptors of the proxy."""
    limits = ServerLimits(connections=2, grace=0.5)
    async with ScriptedRegistry() as registry, proxy_before(registry.url, limits=limits) as proxy:
        opened = [await asyncio.open_connection(*proxy.address) for _ in range(80)]
        with contextlib.suppress(ConnectionError):
            assert await asyncio.wait_for(opened[-1][0].read(), PATIENCE) == b""
        for _, writer in opened:
            writer.close()
