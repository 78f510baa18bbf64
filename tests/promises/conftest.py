"""Counts the worlds that each test of the promises tries; `promises.summary` prints them."""

from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from promises.registry import TRIED


@pytest.fixture(autouse=True)
def _tried(record_property: Callable[[str, object], None]) -> Iterator[None]:
    """Attach a test's own counts to its report, which reaches the terminal from any worker."""
    before = Counter(TRIED)
    yield
    for name, count in (TRIED - before).items():
        record_property(name, count)
