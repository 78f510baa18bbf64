"""How often one registry is asked: evenly, so many requests a second at most."""

import asyncio
import time
from collections.abc import Awaitable, Callable


class RateLimiter:
    """Gives each request its turn.

    Args:
        rate: requests a second; None lets all go at once.
        clock: seconds, from any start.
        sleep: waits that many seconds.
    """

    def __init__(
        self,
        rate: float | None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._gap = 0.0 if rate is None else 1.0 / rate
        self._clock = clock
        self._sleep = sleep
        self._next = float("-inf")

    async def turn(self) -> None:
        """Wait until the next request may go; turns are given in the order in which they are asked for."""
        if not self._gap:
            return
        now = self._clock()
        at = max(now, self._next)
        self._next = at + self._gap
        if at > now:
            await self._sleep(at - now)
