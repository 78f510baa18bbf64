"""A request that is cancelled leaves nothing open, whichever step it has reached."""

import asyncio
import contextlib
import gc
import warnings
from collections.abc import AsyncGenerator
from pathlib import Path

import httpx
import pytest

from crossmount.registry.http.certificates import TrustStore
from crossmount.registry.http.connections import Connections
from crossmount.registry.http.dialing import Dialer
from crossmount.registry.http.location import Origin
from crossmount.registry.http.options import ClientOptions
from crossmount.registry.http.outbound_proxy import ProxyRules
from crossmount.registry.http.pool import KEEP_SECONDS, ConnectionPool
from crossmount.registry.http.transport import Body, HttpClient, exchange, make_client
from crossmount.testing import ScriptedRegistry
from crossmount.testing.acceptor import Acceptor
from support.certificates import self_signed
from support.waiting import PATIENCE

STEPS = 120
"""More turns of the event loop than a request takes, with TLS too."""

CROWD = 4


def garbage() -> list[str]:
    """Collect the garbage, and return what was left open."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        gc.collect()
    return [str(warning.message) for warning in said]


def client_of(url: str, options: ClientOptions) -> httpx.AsyncClient:
    """Return a client with our connections to a registry."""
    return httpx.AsyncClient(transport=make_client(options, registry=Origin.of(httpx.URL(url))))


async def cancel_after(steps: int, requests: list["asyncio.Task[httpx.Response]"]) -> None:
    """Cancel requests after some turns of the event loop, and wait for their end."""
    for _ in range(steps):
        await asyncio.sleep(0)
    for request in requests:
        request.cancel()
    for request in requests:
        with contextlib.suppress(asyncio.CancelledError):
            await request


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_cancelled_request_leaves_no_connection_open(scheme: str, tmp_path: Path) -> None:
    """Requests that are cancelled after any number of turns of the event loop leave no socket to the collector."""
    context, certificate = self_signed(tmp_path)
    left = []
    async with ScriptedRegistry(tls=context if scheme == "https" else None) as registry:
        options = ClientOptions(ca_file=certificate)
        for steps in range(STEPS):
            async with client_of(registry.url, options) as client:
                url = f"{registry.url}/v2/"
                await cancel_after(steps, [asyncio.create_task(client.get(url)) for _ in range(CROWD)])
            left += [f"after {steps} turns: {each}" for each in garbage()]
    assert not left


async def test_a_request_that_outlives_its_client_leaves_no_connection_open() -> None:
    """Requests whose client is closed after any number of turns of the event loop leave no socket open."""
    left = []
    async with ScriptedRegistry() as registry:
        for steps in range(STEPS // 2):
            async with client_of(registry.url, ClientOptions()) as client:
                requests = [asyncio.create_task(client.get(f"{registry.url}/v2/")) for _ in range(CROWD)]
                for _ in range(steps):
                    await asyncio.sleep(0)
            await asyncio.gather(*requests, return_exceptions=True)
            left += [f"after {steps} turns: {each}" for each in garbage()]
    assert not left


async def test_a_cancelled_request_leaves_no_dropped_connection_open() -> None:
    """A request that closes connections that were idle for too long closes them all, also if it is cancelled."""
    left = []
    async with ScriptedRegistry() as registry:
        url = f"{registry.url}/v2/"
        for steps in range(STEPS):
            now = 0.0
            pool = ConnectionPool(Dialer().dial, limit=CROWD, clock=lambda: now)  # noqa: B023 used in this turn
            async with httpx.AsyncClient(transport=pool) as client:
                await asyncio.gather(*(client.get(url) for _ in range(CROWD)))
                now = KEEP_SECONDS
                await cancel_after(steps, [asyncio.create_task(client.get(url))])
            left += [f"after {steps} turns: {each}" for each in garbage()]
    assert not left


async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Refuse each request when its head has come."""
    while True:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\n\r\n{}")
        await writer.drain()


async def test_a_refusal_that_is_looked_into_keeps_no_place() -> None:
    """A first request that is cancelled while it is found out what a 400 means leaves its place to the next."""
    async with Acceptor(refuse) as acceptor:
        url = httpx.URL(f"http://127.0.0.1:{await acceptor.open()}/v2/")
        origin = Origin.of(url)
        trust = TrustStore(ClientOptions(plain_http=True), origin)
        for steps in range(STEPS):
            connections = Connections(origin, rules=ProxyRules(), trust=trust, limit=1)
            async with httpx.AsyncClient(transport=connections, timeout=PATIENCE) as client:
                await cancel_after(steps, [asyncio.create_task(client.get(url))])
                connections._has_answered = True
                async with asyncio.timeout(PATIENCE):
                    assert (await client.get(url)).status_code == 400, f"after {steps} turns"


async def test_a_request_that_is_cancelled_while_its_body_is_closed_keeps_no_place() -> None:
    """A body that takes long to close, as a file does, loses no place if the request is cancelled meanwhile."""

    async def parts() -> AsyncGenerator[bytes]:
        try:
            while True:
                yield bytes(1000)
        finally:
            for _ in range(4):
                await asyncio.sleep(0)

    async with Acceptor(refuse) as acceptor:
        url = httpx.URL(f"http://127.0.0.1:{await acceptor.open()}/")
        for steps in range(STEPS):
            pool = ConnectionPool(Dialer().dial, limit=1)
            async with HttpClient(pool, httpx.Timeout(PATIENCE, pool=None)) as client:
                sending = exchange(client, "PUT", url, headers={}, body=Body(10**9, parts))
                request = asyncio.create_task(sending)
                for _ in range(steps):
                    await asyncio.sleep(0)
                request.cancel()
                await asyncio.gather(request, return_exceptions=True)
                async with asyncio.timeout(PATIENCE):
                    assert (await exchange(client, "GET", url, headers={})).status == 400, f"after {steps} turns"
