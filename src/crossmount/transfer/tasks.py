"""Running things side by side, where the first failure is the failure."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable


async def run_all(jobs: Iterable[Callable[[], Awaitable[None]]]) -> None:
    """Run all jobs at once; when one fails cancel the others, wait for them, and raise that one's error."""
    try:
        async with asyncio.TaskGroup() as group:
            for job in jobs:
                group.create_task(_as_coroutine(job))
    except BaseExceptionGroup as failures:
        first = failures.exceptions[0]
        raise first from first.__cause__


async def _as_coroutine(job: Callable[[], Awaitable[None]]) -> None:
    await job()
