"""Calls that are repeated patiently: how long they wait for an index that does not answer."""

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
    """A link on which each run takes a second of its clock."""

    def __init__(self, error: Exception | None, clock: Clock) -> None:
        super().__init__(error)
        self._clock = clock

    async def run(self, commands: Sequence[Command]) -> list[Any]:
        """Take a second, then fail, or answer each command with nothing."""
        self._clock.now += 1
        return await super().run(commands)


class PatientGuard:
    """A guard over such a link, which repeats calls patiently."""

    def __init__(self, error: Exception | None) -> None:
        self.clock = Clock(100.0)
        self.link = SlowLink(error, self.clock)
        self.said: list[events.Event] = []
        self.index = GuardedIndex(RedisMountIndex(self.link), observer=self.said.append, clock=self.clock)

    async def ask(self, *, least: float = 0.0) -> str:
        """Repeat a call for at most 3.5 seconds."""

        async def call() -> str:
            await self.link.run([("PING",)])
            return "answered"

        return await self.index.call_patiently(call, "no answer", seconds=3.5, pause=lambda: 0.0, least=least)


async def test_an_outage_is_waited_out_once() -> None:
    """The seconds of all patient calls count from the first unanswered call of any caller."""
    asked = PatientGuard(IndexUnavailableError("silent"))
    assert await asked.ask() == "no answer"
    assert (asked.link.runs, asked.index.unserved) == (4, 1)
    assert await asked.ask() == "no answer"
    assert (asked.link.runs, asked.index.unserved) == (4, 2)
    assert asked.said == [events.IndexDegraded(cause="silent")]


async def test_an_outage_that_began_before_is_waited_out_no_longer() -> None:
    """The time of an unanswered look-up counts towards the patience; a patient call is still made once."""
    asked = PatientGuard(IndexUnavailableError("silent"))
    await asked.index.look_up([ONE], DEST)
    assert await asked.ask(least=0.5) == "no answer"
    assert asked.link.runs == 4
    asked.clock.now += 2
    assert await asked.ask(least=0.5) == "no answer"
    assert await asked.ask() == "no answer"
    assert asked.link.runs == 5


async def test_later_callers_wait_no_longer_than_the_first() -> None:
    """When an outage has lasted as long as the patience, all patient calls end together."""
    asked = PatientGuard(IndexUnavailableError("silent"))

    async def hang() -> str:
        return str(await asyncio.Event().wait())

    async def fail() -> str:
        asked.clock.now += 3600
        raise IndexUnavailableError("silent")

    guard = GuardedIndex(RedisMountIndex(asked.link), clock=asked.clock, deadline=None)
    answers = [guard.call_patiently(call, "no answer", seconds=3600, pause=lambda: 0.0) for call in (hang, fail)]
    assert await asyncio.gather(*answers) == ["no answer"] * 2  # a call that was made would wait for an hour


async def test_a_server_that_is_back_in_time_answers() -> None:
    """An outage shorter than the patience is not reported, and the next one is waited out for as long."""
    asked = PatientGuard(IndexUnavailableError("silent"))
    for _ in range(2):
        asked.link.error = IndexUnavailableError("silent")
        asking = asyncio.create_task(asked.ask())
        for _ in range(3):
            await asyncio.sleep(0)
        asked.link.error = None
        assert await asking == "answered"
    assert asked.said == []
    assert asked.index.state == "ok"


@pytest.mark.parametrize("patient", [True, False])
async def test_calls_are_repeated_while_the_server_loads(*, patient: bool) -> None:
    """Patient calls are repeated after LOADING; other calls take it as a refusal, and the breaker stays closed."""
    asked = PatientGuard(StartingError("loading"))
    if patient:
        assert await asked.ask() == "no answer"
        assert asked.link.runs == 4
    else:
        await asked.index.look_up([ONE], DEST)
        await asked.index.look_up([ONE], DEST)
        assert asked.link.runs == 2
    assert asked.said == [events.IndexDegraded(cause="loading")]
