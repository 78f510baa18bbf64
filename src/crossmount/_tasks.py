"""Concurrent work: jobs of which the first failure counts, what tasks raise, and the base of what is closed.

Blocking calls off the event loop are here too.
"""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from crossmount.errors import CrossmountError


class Closing(ABC):
    """Base class: `async with` returns the object, and closes it at the end of the block."""

    @abstractmethod
    async def aclose(self) -> None:
        """Close connections and end tasks."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


P = ParamSpec("P")
T = TypeVar("T")

_log = logging.getLogger(__name__)


def collect(task: "asyncio.Future[Any]") -> None:
    """Log what a task raised, so that asyncio prints no traceback: a done callback of tasks that may go unawaited.

    `asyncio.shield` leaves such tasks: it forgets its task when its caller is cancelled. An expected failure is
    logged for `-vv`; any other is a defect, and a warning of one line.
    """
    if task.cancelled():
        return
    error = task.exception()
    if isinstance(error, CrossmountError | OSError):
        _log.debug("in the background: %s", error)
    elif error is not None:
        _log.warning("in the background: unexpected %s: %s: this is a bug", type(error).__name__, error)


async def run_all(jobs: Iterable[Callable[[], Awaitable[object]]]) -> None:
    """Run all jobs at once; when one fails, cancel the others, wait for them, and raise the failed job's error."""
    with _first_failure():
        async with asyncio.TaskGroup() as group:
            for job in jobs:
                group.create_task(_as_coroutine(job))


async def run_each(jobs: AsyncIterator[Callable[[], Awaitable[None]]], *, at_once: int) -> None:
    """Run jobs as they arrive, at most `at_once` concurrently; a failure is handled as in `run_all`."""
    free = asyncio.Semaphore(at_once)

    async def run(job: Callable[[], Awaitable[None]]) -> None:
        try:
            await job()
        finally:
            free.release()

    with _first_failure():
        async with asyncio.TaskGroup() as group:
            async for job in jobs:
                await free.acquire()
                group.create_task(run(job))


async def run_to_end(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a blocking function in a thread; a cancelled caller waits for its end, since it may use an open file."""
    return await finish(asyncio.to_thread(function, *args, **kwargs))


async def finish(action: Awaitable[T]) -> T:
    """Do something to its end, such as closing a connection; a cancelled caller waits for that."""
    work = asyncio.ensure_future(action)
    work.add_done_callback(collect)
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait([work])
        raise


@contextmanager
def _first_failure() -> Iterator[None]:
    """Raise the first error of a group instead of the group."""
    try:
        yield
    except BaseExceptionGroup as failures:
        first = failures.exceptions[0]
        raise first from first.__cause__


async def _as_coroutine(job: Callable[[], Awaitable[object]]) -> None:
    await job()
