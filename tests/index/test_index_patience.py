"""How long one who insists bears a silent index: as long as it was given, once for all that it asks."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from crossmount import events
from crossmount.errors import IndexUnavailableError
from crossmount.index import GuardedIndex, RedisMountIndex
from crossmount.redis.replies import Command, StartingError
from support.guards import DEST, ONE, FailingLink
from support.index_kit import Clock


class SlowLink(FailingLink):
    """A link on which each run takes a second of a clock's time."""

    def __init__(self, error: Exception | None, clock: Clock) -> None:
        super().__init__(error)
        self._clock = clock

    async def run(self, commands: Sequence[Command]) -> list[Any]:
        """Take a second, then fail, or answer each command with nothing."""
        self._clock.now += 1
        return await super().run(commands)


class Insisting:
    """A guard that is asked patiently, over such a link."""

    def __init__(self, error: Exception | None) -> None:
        self.clock = Clock(100.0)
        self.link = SlowLink(error, self.clock)
        self.said: list[events.Event] = []
        self.index = GuardedIndex(RedisMountIndex(self.link), observer=self.said.append, clock=self.clock)

    async def ask(self, *, least: float = 0.0) -> str:
        """Ask for at most 3.5 seconds."""

        async def call() -> str:
            await self.link.run([("PING",)])
            return "served"

        return await self.index.call_patiently(call, "not served", seconds=3.5, pause=lambda: 0.0, least=least)


async def test_a_silence_is_borne_once() -> None:
    """How long a silent server is asked again counts from its first silence, whoever asks."""
    asked = Insisting(IndexUnavailableError("silent"))
    assert await asked.ask() == "not served"
    assert (asked.link.runs, asked.index.unserved) == (4, 1)
    assert await asked.ask() == "not served"
    assert (asked.link.runs, asked.index.unserved) == (4, 2)
    assert asked.said == [events.IndexDegraded(cause="silent")]


async def test_a_silence_that_began_before_is_borne_no_longer() -> None:
    """What a look-up waited for in vain is a part of the patience; even so the first question is asked once."""
    asked = Insisting(IndexUnavailableError("silent"))
    await asked.index.look_up([ONE], DEST)
    assert await asked.ask(least=0.5) == "not served"
    assert asked.link.runs == 4
    asked.clock.now += 2
    assert await asked.ask(least=0.5) == "not served"
    assert await asked.ask() == "not served"
    assert asked.link.runs == 5


async def test_who_asked_later_waits_no_longer_than_who_asked_first() -> None:
    """When a silence has lasted long enough, all that still wait for an answer stop."""
    asked = Insisting(IndexUnavailableError("silent"))

    async def hang() -> str:
        return str(await asyncio.Event().wait())

    async def fail() -> str:
        asked.clock.now += 3600
        raise IndexUnavailableError("silent")

    guard = GuardedIndex(RedisMountIndex(asked.link), clock=asked.clock, deadline=None)
    answers = [guard.call_patiently(call, "not served", seconds=3600, pause=lambda: 0.0) for call in (hang, fail)]
    assert await asyncio.gather(*answers) == ["not served"] * 2  # else this would wait for an hour


async def test_a_server_that_is_back_in_time_serves() -> None:
    """A silence shorter than the patience is not told, and the next one is borne as long."""
    asked = Insisting(IndexUnavailableError("silent"))
    for _ in range(2):
        asked.link.error = IndexUnavailableError("silent")
        asking = asyncio.create_task(asked.ask())
        for _ in range(3):
            await asyncio.sleep(0)
        asked.link.error = None
        assert await asking == "served"
    assert asked.said == []
    assert asked.index.state == "ok"


@pytest.mark.parametrize("insists", [True, False])
async def test_a_server_that_says_it_is_starting_is_asked_again(*, insists: bool) -> None:
    """LOADING passes: who insists bears it like a silence; for others it is a refusal, which opens no breaker."""
    asked = Insisting(StartingError("loading"))
    if insists:
        assert await asked.ask() == "not served"
        assert asked.link.runs == 4
    else:
        await asked.index.look_up([ONE], DEST)
        await asked.index.look_up([ONE], DEST)
        assert asked.link.runs == 2
    assert asked.said == [events.IndexDegraded(cause="loading")]
