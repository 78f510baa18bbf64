"""The distance of registries is measured once, and again after an outage; few that only the index names are."""

import pytest

from crossmount.errors import RegistryUnreachableError
from crossmount.oci import Repository
from crossmount.registry import Ping, RegistryClient
from crossmount.transfer import registries
from crossmount.transfer.registries import FAR_AWAY, Registries
from support.index_kit import Clock


class Greeted:
    """Replaces pings, and records which registries were pinged."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
        self.names: list[str] = []
        self.answers = True

        async def ping(client: RegistryClient) -> Ping:
            self.names.append(client.registry)
            clock.now += 0.25
            if not self.answers:
                raise RegistryUnreachableError(client.registry)
            return Ping(status=200, version=None)

        monkeypatch.setattr(RegistryClient, "ping", ping)


@pytest.fixture
def clock() -> Clock:
    """A clock that advances with each ping."""
    return Clock(0.0)


@pytest.fixture
def greeted(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> Greeted:
    """Durations and results of pings."""
    return Greeted(monkeypatch, clock)


async def test_a_distance_is_measured_once(clock: Clock, greeted: Greeted) -> None:
    """The distance is the shorter of two pings."""
    async with Registries(clock=clock) as known:
        for name in ("a", "b"):
            assert await known.distance(Repository("r.example", name)) == 0.25
    assert greeted.names == ["r.example"] * 2


async def test_a_registry_that_did_not_answer_is_measured_again(clock: Clock, greeted: Greeted) -> None:
    """A registry that did not answer is measured again later."""
    place = Repository("r.example", "a")
    async with Registries(clock=clock) as known:
        greeted.answers = False
        assert await known.distance(place) == await known.distance(place) == FAR_AWAY
        assert len(greeted.names) == 1
        greeted.answers = True
        clock.now += registries.AGAIN_SECONDS
        assert await known.distance(place) == 0.25


async def test_few_registries_of_the_index_are_measured(
    clock: Clock, greeted: Greeted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few registries that only the index names are measured, and all that the user named."""
    monkeypatch.setattr(registries, "MEASURED_MAX", 3)
    async with Registries(clock=clock) as known:
        known.name("named.example")
        distances = [await known.distance(Repository(f"r{number}.example", "a")) for number in range(5)]
        assert distances == [0.25] * 3 + [FAR_AWAY] * 2
        assert await known.distance(Repository("named.example", "a")) == 0.25
    assert set(greeted.names) == {"r0.example", "r1.example", "r2.example", "named.example"}
