"""Asks several servers the same question; the first answer counts, so a silent server does not hide the others."""

import contextvars
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from queue import Empty, SimpleQueue
from typing import Generic, NoReturn, TypeVar

from redis.exceptions import TimeoutError as RedisTimeoutError

from crossmount.redis.call import CALL_SECONDS, current_call

T = TypeVar("T")

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
    race.start(1)
    found = race.next_answer(head_start)
    if found is None:
        race.start(len(attempts))
        found = race.next_answer(CALL_SECONDS if call is None else call.left)
    if found is None:
        raise NoneAnsweredError(race.errors)
    return found


class _Race(Generic[T]):
    """The attempts that were started, each in a thread of its own."""

    def __init__(self, attempts: Sequence[Callable[[], T]]) -> None:
        self.errors: dict[int, Exception] = {}
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
        try:
            answer = self._attempts[number]()
        except Exception as error:  # noqa: BLE001 it is raised where the caller waits
            self._ended.put((number, partial(_raise, error)))
        else:
            self._ended.put((number, lambda: answer))


def _raise(error: Exception) -> NoReturn:
    raise error
