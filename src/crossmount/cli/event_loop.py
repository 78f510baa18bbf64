"""Runs coroutines of the library for a command, on an event loop; a signal ends them in order."""

import asyncio
import signal
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

from crossmount._signals import ReceivedSignals
from crossmount.cli.failures import Interrupted

R = TypeVar("R")

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run_async(work: Coroutine[Any, Any, R]) -> R:
    """Run `work` to its end and return its result. SIGINT, SIGTERM and SIGHUP cancel it; it may clean up then.

    A second signal ends the process at once.

    Raises:
        Interrupted: a signal was received, and the work did not succeed despite it.
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
