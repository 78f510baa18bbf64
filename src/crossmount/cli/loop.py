"""Running the library's coroutines from a command, so that a signal ends them tidily."""

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any, TypeVar

from crossmount.cli.interrupt import Interrupted

T = TypeVar("T")

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run_async(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` to its end; SIGINT, SIGTERM and SIGHUP cancel it, and its own tidying up is waited for.

    Raises:
        Interrupted: a signal came, and the work did not succeed all the same.
    """
    return asyncio.run(_until_told_to_end(work))


async def _until_told_to_end(work: Coroutine[Any, Any, T]) -> T:
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    told: list[int] = []

    def end(number: int) -> None:
        if told:  # a second one is impatient
            raise KeyboardInterrupt
        told.append(number)
        if task is not None:
            task.cancel()

    heeded = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    for number in heeded:
        loop.add_signal_handler(number, end, number)
    try:
        return await work
    except (Exception, asyncio.CancelledError):
        if told:
            raise Interrupted(told[0]) from None
        raise
    finally:
        for number in heeded:
            loop.remove_signal_handler(number)
