"""A value that is read again when it is old: one read at a time, whatever the number of readers.

A page that many people watch costs the index no more than a page that one watches.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Generic, TypeVar

from crossmount._dataclass import dataclass
from crossmount._secrets import mask_forms
from crossmount.errors import CrossmountError

T = TypeVar("T")

_REST = 10
"""After a slow read, the next one begins only when this many times its duration has passed."""


@dataclass(frozen=True, slots=True)
class Reading(Generic[T]):
    """The newest value that could be read.

    Attributes:
        value: the value; None if none was ever read.
        at: when it was read, in epoch seconds; None without a value.
        trouble: why the last attempt failed; empty if it succeeded.
    """

    value: T | None = None
    at: float | None = None
    trouble: str = ""


class Refreshed(Generic[T]):
    """Reads a value on request, and keeps it for a while.

    Args:
        read: reads the value. Errors of crossmount become the reading's trouble; others propagate.
        seconds: how old a value may be.
        patience: seconds that a caller waits for a read in progress before it gets the older value.
        clock: epoch seconds.
        monotonic: seconds, from any start.
    """

    def __init__(
        self,
        read: Callable[[], Awaitable[T]],
        *,
        seconds: float,
        patience: float,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._read = read
        self._seconds = seconds
        self._patience = patience
        self._clock = clock
        self._monotonic = monotonic
        self._reading: Reading[T] = Reading()
        self._due = 0.0
        self._task: asyncio.Task[None] | None = None

    async def get(self) -> Reading[T]:
        """Return the newest reading, after a new read if it is old."""
        if self._task is None and self._monotonic() >= self._due:
            self._task = asyncio.create_task(self._refresh())
        task = self._task
        if task is not None:
            await asyncio.wait([task], timeout=self._patience)
            if task.done():
                self._task = None if self._task is task else self._task
                task.result()  # a defect propagates
        return self._reading

    async def aclose(self) -> None:
        """End a read in progress."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _refresh(self) -> None:
        started = self._monotonic()
        try:
            self._reading = Reading(await self._read(), self._clock())
        except CrossmountError as error:
            self._reading = replace(self._reading, trouble=mask_forms(str(error)))
        finally:
            now = self._monotonic()
            self._due = now + max(self._seconds, _REST * (now - started))
