"""Fixtures of the index's tests."""

from collections.abc import AsyncIterator, Iterator

import pytest

import redis
from crossmount.index import MountIndex
from support.index_kit import CountingLink, Store, keys_that_stay
from support.links import async_link
from support.servers import Server
from support.stores import STORES, open_store


@pytest.fixture(autouse=True)
def _no_key_stays(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a key of ours without a time to live, a must-mount hash aside."""
    yield
    for name in ("valkey", "redis7"):
        server = request.node.funcargs.get(name)
        if server is None or not server.running:
            continue
        with server.client() as client:
            assert keys_that_stay(client) == []


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest, unhurried: None) -> AsyncIterator[Store]:
    """Give each store in turn, empty."""
    del unhurried
    async with open_store(request.param, request.getfixturevalue) as made:
        yield made


@pytest.fixture
def index(store: Store) -> MountIndex:
    """Give the index alone."""
    return store.index


@pytest.fixture
async def link(valkey: Server) -> AsyncIterator[CountingLink]:
    """Count the round trips to an empty Valkey."""
    made = CountingLink(async_link(valkey.unix_url))
    yield made
    await made.aclose()


@pytest.fixture
def raw(valkey: Server) -> Iterator["redis.Redis"]:
    """Give a client of redis-py of the same server."""
    with valkey.client() as client:
        yield client
