"""Running things side by side, where the first failure is the failure."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager


async def run_all(jobs: Iterable[Callable[[], Awaitable[None]]]) -> None:
    """Run all jobs at once; when one fails cancel the others, wait for them, and raise that one's error."""
    with _first_failure():
        async with asyncio.TaskGroup() as group:
            for job in jobs:
                group.create_task(_as_coroutine(job))


async def run_each(jobs: AsyncIterator[Callable[[], Awaitable[None]]], *, at_once: int) -> None:
    """Run jobs as they come, at most `at_once` side by side; a failure ends it as in `run_all`."""
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


@contextmanager
def _first_failure() -> Iterator[None]:
    """Raise the first error of a group by itself."""
    try:
        yield
    except BaseExceptionGroup as failures:
        first = failures.exceptions[0]
        raise first from first.__cause__


async def _as_coroutine(job: Callable[[], Awaitable[None]]) -> None:
    await job()
