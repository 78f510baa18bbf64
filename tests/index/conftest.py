"""Fixtures of the index's tests."""

from collections.abc import AsyncIterator, Iterator

import pytest

from crossmount.index import MountIndex
from support.index_kit import Store, keys_that_stay
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
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    """Give each store in turn, empty."""
    async with open_store(request.param, request.getfixturevalue) as made:
        yield made


@pytest.fixture
def index(store: Store) -> MountIndex:
    """Give the index alone."""
    return store.index
