"""Calls that neither return nor fail end at a deadline."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from crossmount import events
from crossmount.errors import IndexUnavailableError
from crossmount.index import GuardedIndex, Knowledge, MemoryMountIndex, RedisMountIndex, Sighting
from crossmount.index import blocking as blocking_index
from crossmount.index.guarded_calls import OPEN_SECONDS
from crossmount.oci import Digest, Located
from support.index_kit import Clock, layer, repo
from support.links import async_link, blocking_link

ONE, DEST = layer(1), repo("team/dest")


class HangingIndex(MemoryMountIndex):
    """A user's own index whose calls never return."""

    def __init__(self) -> None:
        super().__init__()
        self.called = asyncio.Event()
        self.calls = 0
        self.cancelled = 0

    async def must_mount(self, layer: str) -> bool:
        """Wait for ever."""
        del layer
        self.calls += 1
        self.called.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return True


@contextmanager
def dripping(listener: socket.socket) -> Iterator[None]:
    """Send an endless reply byte by byte, each byte before the time-out between two bytes."""
    done = threading.Event()

    def serve() -> None:
        with suppress(OSError):
            while not done.is_set():
                client, _ = listener.accept()
                with client, suppress(OSError):
                    client.recv(65536)
                    client.sendall(b"$1000000\r\n")
                    while not done.wait(0.05):
                        client.sendall(b"x")

    with listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            done.set()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@contextmanager
def dripping_server() -> Iterator[str]:
    """Give the URL of such a server."""
    listener = socket.create_server(("127.0.0.1", 0))
    with dripping(listener):
        yield f"redis://127.0.0.1:{listener.getsockname()[1]}"


async def test_an_index_that_hangs_is_given_up() -> None:
    """A call longer than the deadline is cancelled, returns an empty result, and is reported once."""
    seen: list[events.Event] = []
    clock, hanging = Clock(), HangingIndex()
    guarded = GuardedIndex(hanging, observer=seen.append, clock=clock, deadline=0.01)
    assert not await guarded.must_mount(ONE)
    assert (hanging.calls, hanging.cancelled) == (1, 1)
    assert guarded.state == "degraded"
    assert not await guarded.must_mount(ONE)
    assert hanging.calls == 1
    clock.now += OPEN_SECONDS
    assert not await guarded.must_mount(ONE)
    assert hanging.calls == 2
    assert seen == [events.IndexDegraded(cause="the index does not answer in time")]


async def test_a_cancelled_push_is_no_failure_of_the_index() -> None:
    """A call that its caller cancels raises, and does not count as a failure of the index."""
    hanging = HangingIndex()
    guarded = GuardedIndex(hanging)
    task = asyncio.create_task(guarded.must_mount(ONE))
    await hanging.called.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert guarded.state == "ok"


async def test_a_server_that_drips_is_given_up() -> None:
    """A reply that never ends does not keep a call beyond its deadline, however often a byte comes."""
    with dripping_server() as url:
        async with RedisMountIndex(async_link(url)) as index:
            guarded = GuardedIndex(index, deadline=10)
            assert await guarded.look_up([ONE], DEST) == Knowledge()
            assert guarded.state == "degraded"


async def test_a_dripping_server_behind_a_blocking_index_is_given_up() -> None:
    """A blocking index in a thread ends the call at the deadline too."""
    with dripping_server() as url:
        index = blocking_index.RedisMountIndex(blocking_link(url))
        guarded = GuardedIndex(blocking_index.threaded(index), deadline=0.5)
        assert await guarded.look_up([ONE], DEST) == Knowledge()
        assert guarded.state == "degraded"
    index.close()


@pytest.mark.parametrize("over", ["tcp", "unix"])
def test_a_dripping_server_does_not_hold_a_blocking_caller(over: str, tmp_path: Path) -> None:
    """A reply that comes byte by byte ends at the deadline, over TCP and over a unix socket."""
    if over == "tcp":
        listener = socket.create_server(("127.0.0.1", 0))
        url = f"redis://127.0.0.1:{listener.getsockname()[1]}"
    else:  # redis-py looks for a port there, when it is too late to connect again
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        url = f"unix://{tmp_path}/s"
    with dripping(listener), blocking_index.open_index(url) as index, pytest.raises(IndexUnavailableError):
        index.look_up([ONE], DEST)


def test_the_blocking_guard_needs_no_event_loop() -> None:
    """The blocking guard works without an event loop."""
    index = blocking_index.GuardedIndex(blocking_index.MemoryMountIndex())
    index.record([Sighting(ONE, repo("team/a"))])
    assert index.sources(ONE, DEST) == (repo("team/a"),)
    assert index.state == "ok"


async def test_a_time_out_of_the_index_itself_counts_as_no_answer() -> None:
    """A TimeoutError of a user's own index counts as an unanswered call."""

    class TimesOut(MemoryMountIndex):
        async def locations(self, layer: Digest) -> tuple[Located, ...]:  # type: ignore[override]  # never returns
            raise TimeoutError(layer)

    guarded = GuardedIndex(TimesOut())
    assert await guarded.locations(ONE) == ()
    assert guarded.state == "degraded"
