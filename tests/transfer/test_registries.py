"""How far away registries are: measured once, of few that only the index names, and again where none answered."""

import pytest

from crossmount.errors import RegistryUnreachableError
from crossmount.oci import Repository
from crossmount.registry import Ping, RegistryClient
from crossmount.transfer import Registries, registries
from crossmount.transfer.registries import FAR_AWAY
from support.index_kit import Clock


class Greeted:
    """Stands in for greetings, and remembers who was greeted."""

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
    """A clock that goes on with each greeting."""
    return Clock(0.0)


@pytest.fixture
def greeted(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> Greeted:
    """What greetings take and come to."""
    return Greeted(monkeypatch, clock)


async def test_a_distance_is_measured_once(clock: Clock, greeted: Greeted) -> None:
    """It is what the quicker of two greetings took."""
    async with Registries(clock=clock) as known:
        for name in ("a", "b"):
            assert await known.distance(Repository("r.example", name)) == 0.25
    assert greeted.names == ["r.example"] * 2


async def test_one_that_does_not_answer_is_greeted_again_later(clock: Clock, greeted: Greeted) -> None:
    """A process that keeps its registries outlives their outages."""
    place = Repository("r.example", "a")
    async with Registries(clock=clock) as known:
        greeted.answers = False
        assert await known.distance(place) == await known.distance(place) == FAR_AWAY
        assert len(greeted.names) == 1
        greeted.answers = True
        clock.now += registries.AGAIN_SECONDS
        assert await known.distance(place) == 0.25


async def test_an_index_cannot_have_everybody_greeted(
    clock: Clock, greeted: Greeted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many registries it names, few are spoken to for that; those that the user named always are."""
    monkeypatch.setattr(registries, "MEASURED_MAX", 3)
    async with Registries(clock=clock) as known:
        known.name("named.example")
        distances = [await known.distance(Repository(f"r{number}.example", "a")) for number in range(5)]
        assert distances == [0.25] * 3 + [FAR_AWAY] * 2
        assert await known.distance(Repository("named.example", "a")) == 0.25
    assert set(greeted.names) == {"r0.example", "r1.example", "r2.example", "named.example"}
