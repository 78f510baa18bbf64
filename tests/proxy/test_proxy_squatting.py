"""Callers that acquire leases or connections and send nothing: nobody else waits for them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from crossmount.oci import Digest
from crossmount.proxy.settings import ServerLimits
from crossmount.testing import BasicAuth, RegistryOptions, ScriptedRegistry
from support.proxies import ProxyUnderTest, begin_upload, proxy_before
from support.waiting import PATIENCE, until

DATA = bytes(range(256)) * 8192
DIGEST = Digest.of(DATA)
PRIVATE = RegistryOptions(auth=BasicAuth(users={"bob": "pw"}))


@asynccontextmanager
async def dripping(proxy: ProxyUnderTest, *heads: str) -> AsyncIterator[None]:
    """Send the headers of uploads and a few bytes of each body, then nothing."""
    writers = []
    for head in heads:
        _, writer = await asyncio.open_connection(*proxy.address)
        writer.write(f"{head} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(DATA)}\r\n".encode())
        writers.append(writer)
    try:
        for writer in writers:
            writer.write(b"\r\n" + DATA[:10])
        await until(lambda: proxy.app.active >= len(heads))
        yield
    finally:
        for writer in writers:
            writer.transport.abort()
        await until(lambda: proxy.app.active == 0)


async def upload(proxy: ProxyUnderTest, name: str, **details: object) -> int:
    """Upload the blob, and return the status."""
    location = await begin_upload(proxy, name, **details)
    put = await proxy.client.put(f"{location}?digest={DIGEST}", content=DATA, **details)  # type: ignore[arg-type]
    return put.status_code


@pytest.mark.parametrize("way", ["POST", "PUT"])
async def test_clients_that_send_slowly_take_no_place_from_the_others(tmp_path: Path, way: str) -> None:
    """Uploads that clients send slowly take no place from spooled uploads."""
    limits = ServerLimits(uploads=2, spool_bytes=len(DATA), grace=0.5)
    async with (
        ScriptedRegistry() as registry,
        proxy_before(registry.url, spool=tmp_path, limits=limits) as proxy,
    ):
        others = [Digest.of(bytes([number])) for number in range(4)]
        heads = [f"POST /v2/x/blobs/uploads/?digest={other}" for other in others]
        if way == "PUT":
            core = proxy.app.core
            kept, core_spool = core.spool, "spool"
            object.__setattr__(core, core_spool, None)
            heads = [f"PUT {await begin_upload(proxy, 'x')}?digest={other}" for other in others]
            object.__setattr__(core, core_spool, kept)
        async with dripping(proxy, *heads), asyncio.timeout(PATIENCE):
            assert await upload(proxy, "a") == 201


@pytest.mark.parametrize("authorization", ["", "Authorization: Basic bWFsbG9yeTp3cm9uZw==\r\n"])
async def test_nobody_waits_for_one_who_may_not_upload(tmp_path: Path, authorization: str) -> None:
    """A digest and an announced length acquire no lease before the registry has opened a session."""
    async with ScriptedRegistry(PRIVATE) as registry, proxy_before(registry.url, spool=tmp_path) as proxy:
        head = f"POST /v2/app/blobs/uploads/?digest={DIGEST}"
        _, writer = await asyncio.open_connection(*proxy.address)
        announced = f"Content-Length: {len(DATA)}"
        writer.write(f"{head} HTTP/1.1\r\nHost: x\r\n{authorization}{announced}\r\n\r\n".encode() + DATA[:10])
        await until(lambda: proxy.app.active > 0 or bool(registry.matching(method="POST")))
        async with asyncio.timeout(PATIENCE):
            assert await upload(proxy, "bob", auth=("bob", "pw")) == 201
        writer.transport.abort()
        await until(lambda: proxy.app.active == 0)


async def test_one_who_may_not_upload_hears_of_it_before_sending() -> None:
    """A blob in a POST's body that the registry refuses is refused before its bytes are read."""
    async with ScriptedRegistry(PRIVATE) as registry, proxy_before(registry.url) as proxy:
        reader, writer = await asyncio.open_connection(*proxy.address)
        head = f"POST /v2/app/blobs/uploads/?digest={DIGEST} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(DATA)}"
        writer.write(f"{head}\r\n\r\n".encode())
        answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE)
        assert answer.startswith(b"HTTP/1.1 401")
        assert b"www-authenticate" in answer.lower()
        writer.transport.abort()


async def test_a_clients_pace_says_nothing_of_how_fast_uploads_are() -> None:
    """The wait for others is estimated from uploads that the proxy itself sent."""
    async with ScriptedRegistry() as registry, proxy_before(registry.url) as proxy:
        assert await upload(proxy, "a") == 201
        await until(lambda: proxy.app.active == 0)
        assert registry.uploads(DIGEST) == 1
        assert proxy.app.core.turns._fleet.meter.rate is None
