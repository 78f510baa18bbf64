"""Threads that run blocking functions for event loops."""

import asyncio
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")

IDLE_SECONDS = 5.0
"""A thread ends after so long without work, so workers that are never closed leave no threads."""

Job = Callable[[], Callable[[], object] | None]
"""Does the work, and returns a function that delivers the result; None if the call was cancelled."""


class Workers:
    """Runs blocking functions, for any event loop, in threads that start when they are needed.

    This is not a `concurrent.futures.ThreadPoolExecutor`: that one does not work after a fork, keeps the process
    alive until its threads are done, and keeps its threads until it is closed.

    Args:
        most: how many functions run at once; the others wait in the order in which they came.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._crew = _Crew(most)

    async def run(self, function: Callable[[], T]) -> T:
        """Return what the function returns, or raise its error.

        A function that did not begin before a cancellation does not run. Its result is dropped after a
        cancellation, or after the event loop was closed.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def settle(result: Any, error: BaseException | None) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

        def job() -> Callable[[], object] | None:
            if future.done():
                return None
            try:
                return partial(loop.call_soon_threadsafe, settle, function(), None)
            except BaseException as error:  # noqa: BLE001 it is raised where the caller waits
                return partial(loop.call_soon_threadsafe, settle, None, error)

        self._mine().add(job)
        return await future

    def add(self, job: Job) -> None:
        """Let a thread do a job."""
        self._mine().add(job)

    def close(self) -> None:
        """End the threads after the waiting functions; later calls start new ones."""
        crew, self._crew = self._mine(), _Crew(self._most)
        crew.end()

    def _mine(self) -> "_Crew":
        if self._crew.pid != os.getpid():  # after a fork: the threads are the parent's
            self._crew = _Crew(self._most)
        return self._crew


class _Crew:
    """The threads of one process."""

    def __init__(self, most: int) -> None:
        self.pid = os.getpid()
        self._most = most
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._open = 0  # jobs that wait or run

    def add(self, job: Job) -> None:
        with self._lock:
            self._open += 1
            is_more_wanted = self._threads < min(self._open, self._most)
            self._threads += is_more_wanted
        self._jobs.put(job)
        if is_more_wanted:
            threading.Thread(target=self._work, name="crossmount-redis", daemon=True).start()

    def end(self) -> None:
        with self._lock:
            count = self._threads
        for _ in range(count):
            self._jobs.put(None)

    def _work(self) -> None:
        while True:
            try:
                job = self._jobs.get(timeout=IDLE_SECONDS)
            except Empty:
                if self._may_end():
                    return
                continue
            if job is None:
                with self._lock:
                    self._threads -= 1
                return
            deliver = job()
            with self._lock:  # first, so that a caller that gets the result finds this thread idle
                self._open -= 1
            if deliver is not None:
                with suppress(RuntimeError):  # the event loop is closed: no caller waits
                    deliver()
            del job, deliver  # nothing stays referenced while there is nothing to do

    def _may_end(self) -> bool:
        with self._lock:
            is_idle = self._open < self._threads
            self._threads -= is_idle
            return is_idle
