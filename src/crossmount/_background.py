"""What a background task raises is collected, so that asyncio prints no traceback for it."""

import asyncio
import logging
from typing import Any

from crossmount.errors import CrossmountError

_log = logging.getLogger(__name__)


def collect(task: "asyncio.Future[Any]") -> None:
    """Take what a task raised; add this to every task that nobody is sure to await, as a done callback.

    `asyncio.shield` is not sure to: it forgets its task when its caller is cancelled. A failure that can happen is
    logged for `-vv`; any other is a defect, and a warning of one line.
    """
    if task.cancelled():
        return
    error = task.exception()
    if isinstance(error, CrossmountError | OSError):
        _log.debug("in the background: %s", error)
    elif error is not None:
        _log.warning("in the background: unexpected %s: %s: this is a bug", type(error).__name__, error)
