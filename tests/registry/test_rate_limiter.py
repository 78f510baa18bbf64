"""The rate of requests to one registry."""

import pytest

from crossmount.errors import InvalidInputError
from crossmount.oci import Repository
from crossmount.registry import ClientOptions
from crossmount.registry.http.requester import RateLimiter
from crossmount.testing import Fault, Reply, ScriptedRegistry
from support.index_kit import Clock
from support.registry_kit import client_of


async def test_requests_are_spread_evenly() -> None:
    """Each request is sent one gap after the last; time without requests is not made up for."""
    clock, waits = Clock(100.0), []

    async def sleep(seconds: float) -> None:
        waits.append(round(seconds, 3))

    limiter = RateLimiter(4.0, clock=clock, sleep=sleep)
    for _ in range(3):
        await limiter.acquire()
    assert waits == [0.25, 0.5]
    clock.now += 10
    await limiter.acquire()
    await limiter.acquire()
    assert waits == [0.25, 0.5, 0.25]


async def test_without_a_rate_no_request_waits() -> None:
    """Without a rate no request waits."""

    async def sleep(seconds: float) -> None:
        raise AssertionError(seconds)

    limiter = RateLimiter(None, sleep=sleep)
    for _ in range(3):
        await limiter.acquire()


async def test_the_rate_limits_retries_too(scripted_registry: ScriptedRegistry) -> None:
    """Each attempt of a request counts for the rate, retries included."""
    scripted_registry.play(Fault(action=Reply(status=503), times=2))
    layer = scripted_registry.put_blob("a", b"x")
    async with client_of(scripted_registry.address, options={"rate": 1000.0}) as client:
        turns = []
        turn = client._requester._rate_limiter.acquire

        async def counted() -> None:
            turns.append(1)
            await turn()

        client._requester._rate_limiter.acquire = counted  # type: ignore[method-assign]
        assert await client.head_blob(Repository(scripted_registry.address, "a"), layer) == 1
    assert len(turns) == len(scripted_registry.requests) == 3


@pytest.mark.parametrize("rate", [0, -1.0, float("nan")])
def test_a_rate_is_above_zero(rate: float) -> None:
    """A rate of 0 or less, or NaN, is refused."""
    with pytest.raises(InvalidInputError, match="rate"):
        ClientOptions(rate=rate)
