"""The page of a fleet for tests: an index in memory with accounts, and a server of the page in this process."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import httpx

from crossmount.dashboard import IndexReader, Site
from crossmount.errors import IndexUnavailableError
from crossmount.index import MemoryMountIndex, MountIndex
from crossmount.oci import Digest
from crossmount.proxy.http.serving import ListenAddress, listening
from crossmount.proxy.page import PageApp, page_url
from crossmount.proxy.settings import ServerLimits
from crossmount.savings import DayAccounts, LayerIncrement, MemoryAccounts, PushIncrement, Tally
from support.waiting import PATIENCE

NOON = datetime(2026, 11, 27, 12, 0, tzinfo=UTC)
"""When most of these tests are."""

TODAY = NOON.date()


class AccountingIndex(MemoryMountIndex):
    """An index in memory whose accounts a test writes, and that can be out of order.

    Attributes:
        outage: what reading the accounts raises; None if they can be read.
    """

    def __init__(self) -> None:
        super().__init__()
        self.accounts = MemoryAccounts()
        self.outage: IndexUnavailableError | None = None

    def count(
        self,
        *,
        days_ago: int = 0,
        today: date = TODAY,
        registry: str = "registry.example.com",
        prefix: str = "team",
        layers: Sequence[LayerIncrement] = (),
        **numbers: int,
    ) -> None:
        """Add one push to the accounts of a day."""
        tally = Tally(**{"pushes": 1, **numbers})
        day = today - timedelta(days=days_ago)
        self.accounts.add(day, PushIncrement(registry, prefix, tally, tuple(layers)))

    async def read_accounts(self, days: Sequence[date]) -> Sequence[DayAccounts]:
        """Return the accounts of days."""
        if self.outage is not None:
            raise self.outage
        return await self.accounts.read_accounts(days)


@dataclass(slots=True)
class Clock:
    """A clock that a test moves: epoch seconds."""

    now: float = NOON.timestamp()

    def __call__(self) -> float:
        """Return the time."""
        return self.now


@asynccontextmanager
async def site_over(
    index: MountIndex, *, namespace: str = "default", clock: Clock | None = None, **details: Any
) -> AsyncIterator[Site]:
    """Make the page of an index; without a clock it has the real ones."""
    clocks: dict[str, Any] = {} if clock is None else {"clock": clock, "monotonic": clock}
    async with IndexReader(index, namespace=namespace, address="redis://redis.example.com", **clocks) as reader:
        yield Site(reader, version="1.2.3", **details)


@dataclass(frozen=True, slots=True)
class ServedPage:
    """A page that is served.

    Attributes:
        url: its address, with a slash at its end.
        client: sends requests to it.
    """

    url: str
    client: httpx.AsyncClient


@asynccontextmanager
async def served(
    index: MountIndex, *, public_url: str | None = None, namespace: str = "default", clock: Clock | None = None
) -> AsyncIterator[ServedPage]:
    """Serve the page of an index on a free port until the block ends."""
    limits = ServerLimits(grace=0.0)
    async with site_over(index, namespace=namespace, clock=clock) as site:
        app = PageApp(site, listen="127.0.0.1", public_url=page_url(public_url), idle=30.0)
        async with (
            listening(app, ListenAddress("127.0.0.1", 0), limits) as server,
            httpx.AsyncClient(base_url=server.url, timeout=PATIENCE) as client,
        ):
            yield ServedPage(f"{server.url}/", client)


def layer(text: str, fate: Any = "mounted", *, size: int = 1000) -> LayerIncrement:
    """Return what happened to the layer with this content in one push."""
    return LayerIncrement(Digest.of(text.encode()), size, fate)


def headers_of(answer: Any) -> Mapping[str, str]:
    """Return the headers of an answer of the site, with names in lower case."""
    return {name.decode(): value.decode() for name, value in answer.headers}
