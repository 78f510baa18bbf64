"""Runs coroutines of the library for a command, on an event loop that a signal ends tidily."""

import asyncio
import signal
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from crossmount._signals import ReceivedSignals
from crossmount.cli import output
from crossmount.cli.failures import Interrupted
from crossmount.cli.progress.bulk import BulkTracker
from crossmount.cli.progress.display import Display
from crossmount.errors import CrossmountError

R = TypeVar("R")
B = TypeVar("B", bound=BulkTracker)

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run_async(work: Coroutine[Any, Any, R]) -> R:
    """Run `work` to its end and return its result. SIGINT, SIGTERM and SIGHUP cancel it, and it may clean up.

    A later signal does not wait for that.

    Raises:
        Interrupted: a signal came, and the work did not succeed in spite of it.
    """
    received = ReceivedSignals(time.monotonic)
    try:
        return asyncio.run(_until_signal(work, received))
    except KeyboardInterrupt:
        if received.first is None:
            raise
        raise Interrupted(received.first) from None


async def _until_signal(work: Coroutine[Any, Any, R], received: ReceivedSignals) -> R:
    loop, task = asyncio.get_running_loop(), asyncio.current_task()

    def cancel(number: int) -> None:
        match received.add(number):
            case "first" if task is not None:
                task.cancel()
            case "impatient":
                loop.set_exception_handler(lambda *_: None)  # the loop would print how the task ended
                raise KeyboardInterrupt

    handled = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    for number in handled:
        loop.add_signal_handler(number, cancel, number)
    try:
        return await work
    except (Exception, asyncio.CancelledError):
        if received.first is not None:
            raise Interrupted(received.first) from None
        raise
    finally:
        for number in handled:
            loop.remove_signal_handler(number)


def run_bulk(work: Coroutine[Any, Any, R], display: Display[B], so_far: Callable[[B], str]) -> R:
    """Run a scan or a prune, and show its progress. If it stops early, print what `so_far` returns.

    Raises:
        Interrupted: a signal ended it.
        CrossmountError: it failed.
    """
    try:
        with display:
            return run_async(work)
    except Interrupted as interrupted:
        raise interrupted.with_note(so_far(display.tracker)) from None
    except CrossmountError:
        if display.tracker.resumable:
            output.note(so_far(display.tracker))
        raise
