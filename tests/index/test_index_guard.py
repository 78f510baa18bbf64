"""Promise 2: a failed index never fails a push, and never delays it for long."""

import asyncio
import socket
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from crossmount import events
from crossmount._blocking import run_now
from crossmount.errors import IndexFailedError, IndexRefusedError, IndexUnavailableError, MissingExtraError
from crossmount.index import GuardedIndex, MemoryMountIndex, RedisMountIndex, RegistryTraits, Sighting
from crossmount.index import blocking as blocking_index
from crossmount.index.guarded_calls import OPEN_SECONDS
from crossmount.redis.call import PAUSE_MAX_SECONDS
from crossmount.redis.replies import Command
from support.guards import CALLS, DEST, ONE, A, FailingLink
from support.index_kit import Clock, CountingLink, layer
from support.links import async_link, blocking_link


class Guarded:
    """A guard on a link that fails, with its clock and the events that it sent."""

    def __init__(self, error: Exception | None) -> None:
        self.link = FailingLink(error)
        self.clock = Clock(100.0)
        self.said: list[events.Event] = []
        self.index = GuardedIndex(RedisMountIndex(self.link), observer=self.said.append, clock=self.clock)


@pytest.mark.parametrize("kind", [IndexUnavailableError, IndexRefusedError, MissingExtraError])
@pytest.mark.parametrize("call", CALLS)
async def test_a_failed_call_is_as_if_nothing_were_known(call: str, kind: type[Exception]) -> None:
    """Every call of a failed index returns as if the index were empty, without an error."""
    if call == "aclose" and kind is MissingExtraError:
        return  # closing starts no server
    guarded = Guarded(kind("why"))
    do, nothing = CALLS[call]
    assert await do(guarded.index) == nothing
    assert guarded.index.state == "degraded"
    assert guarded.said == [events.IndexDegraded(cause="why")]


@pytest.mark.parametrize("call", CALLS)
async def test_an_answer_passes_through(call: str) -> None:
    """The guard of a working index returns the answers of the index."""
    guarded, bare = GuardedIndex(MemoryMountIndex()), MemoryMountIndex()
    for index in (guarded, bare):
        await index.record([Sighting(ONE, A, must_mount=True)])
    do, _ = CALLS[call]
    assert await do(guarded) == await do(bare)
    assert guarded.state == "ok"


async def test_calls_without_the_index_are_counted() -> None:
    """Each call that returned as if the index were empty counts once, also while the breaker is open."""
    guarded = Guarded(None)
    await guarded.index.must_mount(ONE)
    assert guarded.index.unserved == 0
    guarded.link.error = IndexRefusedError("read only")
    await guarded.index.must_mount(ONE)
    guarded.link.error = IndexUnavailableError("silent")
    for _ in range(3):
        await guarded.index.must_mount(ONE)
    assert (guarded.link.runs, guarded.index.unserved) == (3, 4)


async def test_one_timeout_is_enough() -> None:
    """After an unanswered call no calls are made for some seconds, and the failure is reported once."""
    guarded = Guarded(IndexUnavailableError("silent"))
    for do, _ in CALLS.values():
        await do(guarded.index)
    assert guarded.link.runs == 1
    assert len(guarded.said) == 1


async def test_one_call_is_the_probe() -> None:
    """When the breaker's time is over one call is made; concurrent calls do not wait for it."""
    guarded = Guarded(IndexUnavailableError("silent"))
    await guarded.index.sources(ONE, DEST)
    guarded.clock.now += OPEN_SECONDS
    assert await asyncio.gather(*(guarded.index.sources(ONE, DEST) for _ in range(5))) == [()] * 5
    assert guarded.link.runs == 2
    guarded.clock.now += OPEN_SECONDS - 0.1
    await guarded.index.sources(ONE, DEST)
    assert guarded.link.runs == 2


async def test_an_index_that_is_back_is_used_again() -> None:
    """After an answered call all calls are made again; the report still shows the failure, once."""
    guarded = Guarded(IndexUnavailableError("silent"))
    await guarded.index.sources(ONE, DEST)
    guarded.link.error = None
    guarded.clock.now += OPEN_SECONDS
    for runs in (2, 3, 4):
        await guarded.index.sources(ONE, DEST)
        assert guarded.link.runs == runs
    assert guarded.index.state == "degraded"
    guarded.link.error = IndexUnavailableError("silent again")
    await guarded.index.sources(ONE, DEST)
    assert len(guarded.said) == 1


async def test_a_refusal_opens_no_breaker() -> None:
    """After an index refused a call, the next call is made."""
    guarded = Guarded(IndexUnavailableError("silent"))
    await guarded.index.sources(ONE, DEST)
    guarded.link.error = IndexRefusedError("read only")
    guarded.clock.now += OPEN_SECONDS
    for runs in (2, 3):
        await guarded.index.sources(ONE, DEST)
        assert guarded.link.runs == runs


async def test_closing_goes_through_an_open_breaker() -> None:
    """Connections are closed also while the breaker is open."""
    closed = []

    class Closing(FailingLink):
        async def aclose(self) -> None:
            closed.append(self)

    link = Closing(IndexUnavailableError("silent"))
    index = GuardedIndex(RedisMountIndex(link))
    await index.sources(ONE, DEST)
    await index.aclose()
    assert closed == [link]


async def test_defects_are_not_hidden() -> None:
    """An error that is not an error of the index propagates: a guard does not hide defects."""
    guarded = Guarded(KeyError("defect"))
    with pytest.raises(KeyError):
        await guarded.index.sources(ONE, DEST)


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """Return the port of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield server


@pytest.mark.parametrize("flavour", ["async", "blocking"])
async def test_a_push_past_a_silent_server_waits_once(silent: socket.socket, flavour: str) -> None:
    """A push waits for a server that does not answer only once."""
    url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
    counting = CountingLink(async_link(url) if flavour == "async" else blocking_link(url))
    guard = GuardedIndex(RedisMountIndex(counting))

    async def push() -> None:
        await guard.look_up([layer(i) for i in range(40)], DEST)
        for i in range(40):
            await guard.forget(layer(i), A)
        await guard.record(Sighting(layer(i), DEST) for i in range(40))
        await guard.record_traits("r.example", RegistryTraits(mounts=True))
        await guard.aclose()

    if flavour == "async":
        await push()
    else:
        run_now(push())
    assert len(counting.runs) == 1
    assert guard.state == "degraded"


async def test_a_long_running_process_reports_each_outage() -> None:
    """In a long-running process each outage and each recovery is reported once; a refusal is no outage."""
    link, said = FailingLink(IndexUnavailableError("gone")), list[events.Event]()
    clock = Clock(100.0)
    guard = GuardedIndex(RedisMountIndex(link), observer=said.append, clock=clock, lasting=True)
    for _ in range(2):
        for _ in range(3):
            assert await guard.locations(ONE) == ()
            clock.now += OPEN_SECONDS
        link.error = None
        await guard.forget(ONE)
        await guard.forget(ONE)
        link.error = IndexUnavailableError("gone")
    assert said == [events.IndexDegraded(cause="gone"), events.IndexRestored()] * 2
    assert guard.state == "degraded"


async def test_each_failed_probe_lengthens_the_pause_up_to_a_bound() -> None:
    """A failed probe lengthens the time that the breaker is open, up to a bound; an answer resets it."""
    guarded = Guarded(IndexUnavailableError("silent"))
    for times in range(4):
        await guarded.index.sources(ONE, DEST)
        assert guarded.link.runs == times + 1
        guarded.clock.now += (PAUSE_MAX_SECONDS if times else OPEN_SECONDS) - 0.1
        await guarded.index.sources(ONE, DEST)
        assert guarded.link.runs == times + 1
        guarded.clock.now += 0.1
    guarded.link.error = None
    await guarded.index.sources(ONE, DEST)
    guarded.link.error = IndexUnavailableError("silent")
    await guarded.index.sources(ONE, DEST)
    guarded.clock.now += OPEN_SECONDS
    await guarded.index.sources(ONE, DEST)
    assert guarded.link.runs == 7


async def test_a_probe_is_short() -> None:
    """A probe has a shorter time limit than other calls."""

    class Hanging(FailingLink):
        async def run(self, commands: Sequence[Command]) -> list[Any]:
            if self.runs:
                await asyncio.Event().wait()
            return await super().run(commands)

    link, clock = Hanging(IndexUnavailableError("silent")), Clock(100.0)
    guard = GuardedIndex(RedisMountIndex(link), clock=clock, deadline=3600)
    await guard.sources(ONE, DEST)
    clock.now += OPEN_SECONDS
    assert await guard.sources(ONE, DEST) == ()  # a call that was made would wait for an hour
    assert guard.unserved == 2


@pytest.mark.parametrize("lasting", [False, True])
async def test_a_probe_goes_on_when_its_caller_does_not_wait_any_more(lasting: bool) -> None:
    """A probe that takes longer than a caller waits ends the outage with its late answer."""
    answers, answered = asyncio.Event(), asyncio.Event()

    class Slow(FailingLink):
        async def run(self, commands: Sequence[Command]) -> list[Any]:
            if self.error is None:
                await answers.wait()
                asyncio.get_running_loop().call_later(0, answered.set)
            return await super().run(commands)

    said: list[events.Event] = []
    link, clock = Slow(IndexUnavailableError("silent")), Clock(100.0)
    guard = GuardedIndex(RedisMountIndex(link), observer=said.append, clock=clock, lasting=lasting)
    await guard.must_mount(ONE)
    link.error = None
    clock.now += OPEN_SECONDS
    assert await guard.must_mount(ONE) is False
    was_open = guard.breaker_open
    answers.set()
    await answered.wait()
    assert (was_open, guard.breaker_open) == (True, False)
    assert await guard.must_mount(ONE) is False
    assert (guard.unserved, link.runs) == (2, 3)
    assert (events.IndexRestored() in said) == lasting


async def test_a_probe_ends_with_its_guard() -> None:
    """Closing the guard, or cancelling the caller, ends a probe that still runs."""
    ended = asyncio.Event()

    class Hanging(FailingLink):
        async def run(self, commands: Sequence[Command]) -> list[Any]:
            if not self.runs:
                return await super().run(commands)
            try:
                return await asyncio.Event().wait()  # type: ignore[return-value]  # it never returns
            finally:
                ended.set()

    for way in ("close", "cancel"):
        clock = Clock(100.0)
        guard = GuardedIndex(RedisMountIndex(Hanging(IndexUnavailableError("silent"))), clock=clock)
        await guard.must_mount(ONE)
        clock.now += OPEN_SECONDS
        caller = asyncio.ensure_future(guard.must_mount(ONE))
        if way == "cancel":
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            caller.cancel()
        await asyncio.wait([caller])
        await guard.aclose()
        await ended.wait()
        ended.clear()


def test_the_blocking_guard() -> None:
    """The blocking guard does the same for a blocking index."""
    said: list[events.Event] = []
    index = blocking_index.MemoryMountIndex()
    with blocking_index.GuardedIndex(index, observer=said.append, clock=Clock()) as guard:
        guard.add_source(ONE, A)
        assert guard.sources(ONE, DEST) == (A,)
        assert guard.state == "ok"
    failing = blocking_index.RedisMountIndex(FailingLink(IndexUnavailableError("gone")))
    degraded = blocking_index.GuardedIndex(failing, observer=said.append)
    assert degraded.sources(ONE, DEST) == ()
    assert degraded.state == "degraded"
    assert said == [events.IndexDegraded(cause="gone")]


def test_errors_of_the_index_are_one_kind() -> None:
    """`IndexFailedError` is the base class of both errors of an index."""
    assert issubclass(IndexUnavailableError, IndexFailedError)
    assert issubclass(IndexRefusedError, IndexFailedError)
