"""Waiting for a condition that sends no event; and servers that accept connections and never answer."""

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

PATIENCE = 240.0
"""Seconds for what takes a moment on an idle machine: on a busy one a process may take minutes to start.

It is less than the time-out of a test in `pyproject.toml`, so that the error says what was waited for.
"""

PATIENCE_MS = PATIENCE * 1000
"""The same for Playwright."""


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition; the test's own deadline bounds it."""
    while not condition():  # noqa: ASYNC110 nothing here could set an event
        await asyncio.sleep(0.01)


def until_now(condition: Callable[[], bool]) -> None:
    """Wait for a condition without an event loop; the test's own deadline bounds it."""
    while not condition():
        time.sleep(0.01)


@contextmanager
def silent_servers(count: int) -> Iterator[list[str]]:
    """Run such servers; yield their addresses."""
    with ExitStack() as stack:
        listeners = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=100)) for _ in range(count)
        ]
        yield [f"127.0.0.1:{listener.getsockname()[1]}" for listener in listeners]
