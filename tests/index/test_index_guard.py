"""Promise 2: the index never fails a push, and never holds it up for long."""

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
from crossmount.index.guard import OPEN_SECONDS
from crossmount.redis.replies import Command
from support.guards import CALLS, DEST, ONE, A, FailingLink
from support.index_kit import Clock, CountingLink, layer
from support.links import async_link, blocking_link


class Guarded:
    """A guard on a link that fails, with its clock and what it said."""

    def __init__(self, error: Exception | None) -> None:
        self.link = FailingLink(error)
        self.clock = Clock(100.0)
        self.said: list[events.Event] = []
        self.index = GuardedIndex(RedisMountIndex(self.link), observer=self.said.append, clock=self.clock)


@pytest.mark.parametrize("kind", [IndexUnavailableError, IndexRefusedError, MissingExtraError])
@pytest.mark.parametrize("call", CALLS)
async def test_a_failed_call_is_as_if_nothing_were_known(call: str, kind: type[Exception]) -> None:
    """Whatever is asked of an index that does not serve, the answer is nothing, and no error."""
    if call == "aclose" and kind is MissingExtraError:
        return  # closing starts no server
    guarded = Guarded(kind("why"))
    do, nothing = CALLS[call]
    assert await do(guarded.index) == nothing
    assert guarded.index.state == "degraded"
    assert guarded.said == [events.IndexDegraded(cause="why")]


@pytest.mark.parametrize("call", CALLS)
async def test_a_served_call_passes_through(call: str) -> None:
    """An index that serves is not changed by its guard."""
    guarded, bare = GuardedIndex(MemoryMountIndex()), MemoryMountIndex()
    for index in (guarded, bare):
        await index.record([Sighting(ONE, A, must_mount=True)])
    do, _ = CALLS[call]
    assert await do(guarded) == await do(bare)
    assert guarded.state == "ok"


async def test_what_was_not_served_is_counted() -> None:
    """Each call that was answered as if nothing were known counts once, also while the index is left alone."""
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
    """After a call without an answer the index is left alone for some seconds, and it is said once."""
    guarded = Guarded(IndexUnavailableError("silent"))
    for do, _ in CALLS.values():
        await do(guarded.index)
    assert guarded.link.runs == 1
    assert len(guarded.said) == 1


async def test_one_call_asks_whether_it_is_back() -> None:
    """When the time is over one call asks again; those beside it do not wait for it."""
    guarded = Guarded(IndexUnavailableError("silent"))
    await guarded.index.sources(ONE, DEST)
    guarded.clock.now += OPEN_SECONDS
    assert await asyncio.gather(*(guarded.index.sources(ONE, DEST) for _ in range(5))) == [()] * 5
    assert guarded.link.runs == 2
    guarded.clock.now += OPEN_SECONDS - 0.1
    await guarded.index.sources(ONE, DEST)
    assert guarded.link.runs == 2


async def test_an_index_that_is_back_is_used_again() -> None:
    """Once it answers, every call goes through again; that it was away stays in the report, said once."""
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
    """An index that answers with an error costs no time, so the next call may be served."""
    guarded = Guarded(IndexUnavailableError("silent"))
    await guarded.index.sources(ONE, DEST)
    guarded.link.error = IndexRefusedError("read only")
    guarded.clock.now += OPEN_SECONDS
    for runs in (2, 3):
        await guarded.index.sources(ONE, DEST)
        assert guarded.link.runs == runs


async def test_closing_goes_through_an_open_breaker() -> None:
    """Connections are let go of also while the index is left alone."""
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
    """An error that is none of the index's own passes: a guard does not hide defects."""
    guarded = Guarded(KeyError("defect"))
    with pytest.raises(KeyError):
        await guarded.index.sources(ONE, DEST)


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """Give a server that accepts, by its backlog, and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield server


@pytest.mark.parametrize("flavour", ["async", "blocking"])
async def test_a_push_past_a_silent_server_waits_once(silent: socket.socket, flavour: str) -> None:
    """All that a push asks of a silent index is asked of the server once, and the rest is not waited for."""
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


async def test_who_runs_for_long_is_told_of_each_outage() -> None:
    """Gone, back, gone again: each is said once; a refusal between is no outage."""
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


async def test_a_server_that_stays_silent_is_asked_ever_more_seldom() -> None:
    """Each time that it is still silent it is left alone for twice as long; once it answered, all begins anew."""
    guarded = Guarded(IndexUnavailableError("silent"))
    for times in range(4):
        await guarded.index.sources(ONE, DEST)
        assert guarded.link.runs == times + 1
        guarded.clock.now += OPEN_SECONDS * 2**times - 0.1
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
    """A server that was silent is given less time to answer than one that is thought to be well."""

    class Hanging(FailingLink):
        async def run(self, commands: Sequence[Command]) -> list[Any]:
            if self.runs:
                await asyncio.Event().wait()
            return await super().run(commands)

    link, clock = Hanging(IndexUnavailableError("silent")), Clock(100.0)
    guard = GuardedIndex(RedisMountIndex(link), clock=clock, deadline=3600)
    await guard.sources(ONE, DEST)
    clock.now += OPEN_SECONDS
    assert await guard.sources(ONE, DEST) == ()  # else this would wait for an hour
    assert guard.unserved == 2


def test_the_blocking_guard() -> None:
    """The blocking guard is the same, over a blocking index."""
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
    """Whoever catches an index that failed catches both, silent and refusing."""
    assert issubclass(IndexUnavailableError, IndexFailedError)
    assert issubclass(IndexRefusedError, IndexFailedError)
