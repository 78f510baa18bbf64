"""Threads that run blocking functions for event loops: how many, for how long, and for which loop."""

import asyncio
import gc
import os
import subprocess
import sys
import textwrap
import threading
from functools import partial

import pytest

from crossmount.redis import threads as module
from crossmount.redis.threads import Workers
from support.waiting import PATIENCE, until

NAME = "crossmount-redis"


class NewThreads:
    """The threads of workers that start from now on; those of earlier tests may end meanwhile."""

    def __init__(self) -> None:
        self._before = set(threading.enumerate())

    @property
    def count(self) -> int:
        """How many there are."""
        return sum(thread.name == NAME and thread not in self._before for thread in threading.enumerate())

    async def end(self) -> None:
        """Wait until there are none."""
        await until(lambda: self.count == 0)


async def test_no_more_threads_than_allowed() -> None:
    """Functions beyond the limit wait, and run in the order in which they came."""
    workers, threads = Workers(2), NewThreads()
    both, go = threading.Barrier(3), threading.Event()
    order: list[int] = []

    def first() -> None:
        both.wait(PATIENCE)
        go.wait(PATIENCE)

    running = [asyncio.create_task(workers.run(first)) for _ in range(2)]
    await asyncio.to_thread(both.wait, PATIENCE)
    waiting = [asyncio.create_task(workers.run(partial(order.append, number))) for number in range(9)]
    await asyncio.sleep(0)
    assert threads.count == 2
    go.set()
    await asyncio.gather(*running, *waiting)
    assert sorted(order) == list(range(9))
    workers.close()
    await threads.end()


async def test_threads_start_when_they_are_needed() -> None:
    """Making workers starts no thread; calls one after another share one."""
    threads = NewThreads()
    workers = Workers(8)
    assert threads.count == 0
    for number in range(5):
        assert await workers.run(partial(abs, number)) == number
    assert threads.count == 1
    workers.close()
    await threads.end()


async def test_a_thread_without_work_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that nobody closes leave no thread, and start one again when they are used again."""
    monkeypatch.setattr(module, "IDLE_SECONDS", 0.01)
    threads, workers = NewThreads(), Workers(2)
    for _ in range(2):
        assert await workers.run(threading.get_ident) != threading.get_ident()
        await threads.end()


async def test_an_error_is_raised_where_it_is_awaited() -> None:
    """An exception of the function is raised at the caller, and the thread continues."""
    workers = Workers(1)

    def fail() -> None:
        raise KeyError(1)

    with pytest.raises(KeyError):
        await workers.run(fail)
    assert await workers.run(lambda: 3) == 3
    workers.close()


async def test_a_call_that_is_cancelled_while_it_waits_does_not_run() -> None:
    """A cancelled call ends at once, and a function that did not begin does not run."""
    workers, go, ran = Workers(1), threading.Event(), []
    running = asyncio.create_task(workers.run(lambda: go.wait(PATIENCE)))
    waiting = asyncio.create_task(workers.run(lambda: ran.append(1)))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    go.set()
    assert await running
    await workers.run(lambda: None)
    assert ran == []
    workers.close()


def test_a_loop_that_is_closed_before_the_end_gets_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """A function that ends after its event loop was closed causes no error, and the next loop works."""
    workers, began, go, done = Workers(1), threading.Event(), threading.Event(), threading.Event()

    def slow() -> None:
        began.set()
        go.wait(PATIENCE)
        done.set()
        raise KeyError

    async def leave() -> None:
        task = asyncio.create_task(workers.run(slow))
        await asyncio.to_thread(began.wait, PATIENCE)
        task.cancel()

    asyncio.run(leave())
    go.set()
    assert done.wait(PATIENCE)
    assert asyncio.run(workers.run(lambda: 4)) == 4
    workers.close()
    gc.collect()
    assert caplog.records == []


def test_a_fork_has_threads_of_its_own() -> None:
    """A child that was forked while threads worked runs its functions in new ones."""
    code = """
        import asyncio, os, threading
        from crossmount.redis.threads import Workers

        workers = Workers(2)
        assert asyncio.run(workers.run(os.getpid)) == os.getpid()
        go = threading.Event()

        async def main():
            busy = asyncio.create_task(workers.run(go.wait))
            await asyncio.sleep(0)
            child = os.fork()
            if not child:
                asyncio.events._set_running_loop(None)
                own = asyncio.new_event_loop()
                os._exit(0 if own.run_until_complete(workers.run(os.getpid)) == os.getpid() else 1)
            assert os.waitpid(child, 0)[1] == 0
            go.set()
            await busy

        asyncio.run(main())
    """
    run_python(code)


def test_a_process_ends_while_a_thread_works() -> None:
    """Threads are daemons: the process does not wait for a server that is slow to answer."""
    run_python("""
        import asyncio, threading
        from crossmount.redis.threads import Workers

        began = threading.Event()

        def work():
            began.set()
            threading.Event().wait()  # for ever

        async def main():
            asyncio.create_task(Workers(1).run(work))
            await asyncio.to_thread(began.wait)

        asyncio.run(main())
    """)


def run_python(code: str) -> None:
    """Run code in an interpreter of its own, in which warnings are errors."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
        env={**os.environ, "PYTHONDEVMODE": "1"},
    )
    said = [line for line in done.stderr.splitlines() if not line.startswith("Executing ")]
    assert (done.returncode, said) == (0, [])
