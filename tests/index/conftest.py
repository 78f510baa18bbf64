"""Fixtures of the index's tests."""

from collections.abc import Iterator

import pytest

from support.index_kit import keys_that_stay


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
