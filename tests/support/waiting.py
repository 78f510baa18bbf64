"""Waiting for a condition that sends no event: in another process, on a server, in a proxy."""

import asyncio
import time
from collections.abc import Callable


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition; the test's own deadline bounds it."""
    while not condition():  # noqa: ASYNC110 nothing here could set an event
        await asyncio.sleep(0.01)


def until_now(condition: Callable[[], bool]) -> None:
    """Wait for a condition without an event loop; the test's own deadline bounds it."""
    while not condition():
        time.sleep(0.01)
