"""Uploads of one layer through a proxy, while others of the fleet upload it."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from crossmount.fleet import Fleet, Slots, UploadTurn
from crossmount.index import Keys, open_index
from crossmount.oci import Digest
from support import fleets
from support.proxies import ProxyUnderTest, begin_upload, metrics_page, proxy_before
from support.servers import Server

DATA = os.urandom(1024 * 1024 + 17)
DIGEST = Digest.of(DATA)
OTHER = os.urandom(1024 * 1024 + 17)


async def push_spooled(proxy: ProxyUnderTest, name: str, data: bytes = DATA, **details: Any) -> httpx.Response:
    """Upload like a client that names the digest last."""
    location = await begin_upload(proxy, name, **details)
    await proxy.client.patch(location, content=data, **details)
    return await proxy.client.put(f"{location}?digest={Digest.of(data)}", **details)


def metric(proxy: ProxyUnderTest, name: str, **labels: str) -> float:
    """Return a metric's value, as Prometheus would read it."""
    page = metrics_page(proxy.app.core.metrics)
    return sum(
        sample.value
        for family in text_string_to_metric_families(page.decode())
        for sample in family.samples
        if (sample.name, sample.labels) == (f"crossmount_proxy_{name}", labels)
    )


def lease_of(server: Server, proxy: ProxyUnderTest) -> bytes | None:
    """Return the lease of DATA."""
    with server.client() as client:
        found = client.get(Keys().lease(DIGEST, proxy.registry))
        assert found is None or isinstance(found, bytes)
        return found


def waiting_on(server: Server, proxy: ProxyUnderTest) -> int:
    """Return the number of waiters for DATA."""
    return fleets.waiting_on(server, DIGEST, proxy.registry)


def fleet_of(proxy: ProxyUnderTest) -> Fleet:
    """Return the fleet of a proxy, by which a test without a server sees the waiters and the uploader."""
    return proxy.app.core.turns._fleet


@asynccontextmanager
async def proxy_on(server: Server, registry: str, **settings: Any) -> AsyncIterator[ProxyUnderTest]:
    """Run a proxy with an index on a real server."""
    async with open_index(server.url) as index, proxy_before(registry, index=index, **settings) as proxy:
        yield proxy


@asynccontextmanager
async def another_uploads(server: Server, proxy: ProxyUnderTest, name: str) -> AsyncIterator[UploadTurn]:
    """Act as another runner that uploads DATA into a repository until the block ends."""
    async with open_index(server.url) as index, Fleet(index) as fleet:
        turn = await fleet.turn(DIGEST, proxy.repository(name), len(DATA), slots=Slots(1))
        assert isinstance(turn, UploadTurn)
        try:
            yield turn
        finally:
            await turn.release()
