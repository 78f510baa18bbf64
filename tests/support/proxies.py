"""A proxy in this process in front of a registry, and a client of it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx

from crossmount.index import MemoryMountIndex, Sighting
from crossmount.index.protocol import MountableLayers
from crossmount.oci import Digest, Repository
from crossmount.proxy.app import App
from crossmount.proxy.server import RunningProxy, running
from crossmount.proxy.settings import ProxySettings, ServerLimits
from crossmount.proxy.telemetry import Exposition, Metrics
from crossmount.registry import ClientOptions, RetryPolicy
from support.waiting import PATIENCE, until

QUICK = RetryPolicy(attempts=3, outage=0.0, wait_initial=0.001, wait_max=0.01, timeout=5.0)
"""A retry policy with short waits."""


@dataclass(frozen=True, slots=True)
class ProxyUnderTest:
    """A running proxy.

    Attributes:
        client: sends requests to it, without credentials.
        index: the index that it uses.
    """

    url: str
    client: httpx.AsyncClient
    app: App
    index: MemoryMountIndex
    running: RunningProxy
    registry: str

    def repository(self, name: str) -> Repository:
        """Return a repository of the registry behind it."""
        return Repository(self.registry, name)

    async def knows(self, digest: Digest, *names: str) -> None:
        """Record in the index that some repositories have a blob."""
        await self.index.record([Sighting(digest, self.repository(name)) for name in names])

    async def learnt(self, digest: Digest) -> set[str]:
        """Return the repositories that the index knows for a blob, once all is recorded."""
        await until(lambda: self.app.active == 0)  # an accepted manifest is learnt from after its answer
        await self.app.core.recorder.flush()
        return {found.name for found in await self.index.locations(digest)}

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        url = httpx.URL(self.url)
        return url.host, url.port or 0


@asynccontextmanager
async def proxy_before(
    registry: str,
    *more: str,
    spool: Path | None = None,
    limits: ServerLimits | None = None,
    index: MountableLayers | None = None,
    options: ClientOptions | None = None,
    **settings: Any,
) -> AsyncIterator[ProxyUnderTest]:
    """Run a proxy in front of the registry at the URL `registry`, and of `more`, until the block ends."""
    memory = MemoryMountIndex()
    made = ProxySettings(
        upstreams=(registry, *more),
        port=0,
        spool=spool,
        limits=limits or ServerLimits(grace=2.0),
        options=options or replace(ClientOptions(), retry=QUICK),
        **settings,
    )
    async with (
        running(made, index or memory) as proxy,
        httpx.AsyncClient(base_url=proxy.url, timeout=PATIENCE, verify=False) as client,  # noqa: S501 a test's certificate
    ):
        address = proxy.upstreams[0].registry.registry
        yield ProxyUnderTest(proxy.url, client, proxy.apps[0], memory, proxy, address)


def metrics_page(metrics: Metrics) -> bytes:
    """Return the page of metrics of a proxy with one upstream."""
    exposition = Exposition()
    exposition.add(metrics)
    return exposition.page()[0]


def error_code(answer: httpx.Response) -> str:
    """Return the first error code of an answer by the specification."""
    return str(answer.json()["errors"][0]["code"])


async def pieces(data: bytes, size: int) -> AsyncIterator[bytes]:
    """Yield data in pieces, so that it is sent in chunks."""
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def begin_upload(proxy: ProxyUnderTest, name: str, **details: Any) -> str:
    """Open an upload session and return its Location."""
    answer = await proxy.client.post(f"/v2/{name}/blobs/uploads/", **details)
    assert answer.status_code == 202, answer.text
    return answer.headers["location"]
