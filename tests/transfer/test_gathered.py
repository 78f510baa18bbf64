"""Parts of a blob on their way from one registry to another."""

import itertools
from collections.abc import AsyncIterator

import pytest

from crossmount.errors import RegistryUnreachableError
from crossmount.transfer.origins import GATHER_BYTES, GATHER_SECONDS, gathered


async def parts(*sizes: int, error: Exception | None = None) -> AsyncIterator[bytes]:
    """Yield parts of some sizes, then fail if there is an error."""
    for size in sizes:
        yield bytes(size)
    if error is not None:
        raise error


async def test_parts_that_follow_quickly_are_joined() -> None:
    """Each part costs time on its way, so small ones travel together, up to a size."""
    sizes = [len(part) async for part in gathered(parts(10, GATHER_BYTES, 20, 30), clock=lambda: 0.0)]
    assert sizes == [10 + GATHER_BYTES, 50]


async def test_parts_that_come_slowly_do_not_wait() -> None:
    """A slow source's bytes are sent on as they come."""
    clock = itertools.count(step=2 * GATHER_SECONDS).__next__
    assert [len(part) async for part in gathered(parts(10, 20, 30), clock=clock)] == [10, 20, 30]


async def test_what_came_before_an_error_is_handed_on() -> None:
    """A read that resumes after an error fetches no byte twice."""
    joined = gathered(parts(10, 20, error=RegistryUnreachableError("cut")), clock=lambda: 0.0)
    assert len(await anext(joined)) == 30
    with pytest.raises(RegistryUnreachableError):
        await anext(joined)
