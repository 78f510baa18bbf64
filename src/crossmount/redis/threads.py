"""Threads: for blocking functions of an event loop, and for one question to several servers."""

import asyncio
import contextvars
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Generic, NoReturn, TypeVar

from redis.exceptions import TimeoutError as RedisTimeoutError

from crossmount.redis.call import CALL_SECONDS, current_call

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


HEAD_START_SECONDS = 0.15
"""How long the first server is asked alone, so that a healthy one is the only one that gets a connection."""


class NoneAnsweredError(Exception):
    """No server answered.

    Attributes:
        errors: for each attempt that ended, its error.
    """

    def __init__(self, errors: Mapping[int, Exception]) -> None:
        super().__init__("none answered")
        self.errors = errors

    @property
    def cause(self) -> Exception:
        """The error of the first attempt that ended."""
        return next(iter(self.errors.values()), RedisTimeoutError("Timeout reading from socket"))


def first_answer(attempts: Sequence[Callable[[], T]], *, head_start: float = HEAD_START_SECONDS) -> tuple[int, T]:
    """Ask the first server, and all others together once it has failed or had its head start.

    Each attempt has time-outs of its own, and all end with the deadline of the call. Those that lose run on in
    their threads until then; their results are dropped.

    Args:
        attempts: each asks one server, and raises if that one does not answer.
        head_start: seconds for which the first is asked alone.

    Returns:
        The number of the attempt that was answered first, and its answer.

    Raises:
        NoneAnsweredError: no server answered in time.
    """
    race, call = _Race(attempts), current_call()
    try:
        race.start(1)
        found = race.next_answer(head_start)
        if found is None:
            race.start(len(attempts))
            found = race.next_answer(CALL_SECONDS if call is None else call.left)
    finally:
        race.is_over = True
    if found is None:
        raise NoneAnsweredError(race.errors)
    return found


class _Race(Generic[T]):
    """The attempts that were started, each in a thread of its own."""

    def __init__(self, attempts: Sequence[Callable[[], T]]) -> None:
        self.errors: dict[int, Exception] = {}
        self.is_over = False  # an attempt whose thread gets its turn later opens no connection
        self._attempts = attempts
        self._started = 0
        self._ended: SimpleQueue[tuple[int, Callable[[], T]]] = SimpleQueue()

    def start(self, count: int) -> None:
        """Start further attempts, until `count` of them are started."""
        numbers = range(self._started, min(count, len(self._attempts)))
        self._started += len(numbers)
        for number in numbers:
            context = contextvars.copy_context()
            target = partial(context.run, self._run, number)
            threading.Thread(target=target, name="crossmount-redis", daemon=True).start()

    def next_answer(self, seconds: float) -> tuple[int, T] | None:
        """Return the next answer; None after so many seconds, or once all started attempts have failed."""
        until = time.monotonic() + seconds
        while len(self.errors) < self._started:
            try:
                number, result = self._ended.get(timeout=max(0.0, until - time.monotonic()))
            except Empty:
                return None
            try:
                return number, result()
            except Exception as error:  # noqa: BLE001 whatever it is, another server may answer
                self.errors[number] = error
        return None

    def _run(self, number: int) -> None:
        if self.is_over:
            return
        try:
            answer = self._attempts[number]()
        except Exception as error:  # noqa: BLE001 it is raised where the caller waits
            self._ended.put((number, partial(_raise, error)))
        else:
            self._ended.put((number, lambda: answer))


def _raise(error: Exception) -> NoReturn:
    raise error
