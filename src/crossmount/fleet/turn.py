"""What a push is told about a layer that its repository lacks."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from crossmount._blocking import run_now
from crossmount.oci import Repository

ROUNDS = 3
"""How often a blob is waited for that could not be mounted from where it appeared."""


class Slots:
    """How many blobs of one push may be on their way at once.

    Args:
        count: how many.
        freed: called whenever one is free again.
    """

    def __init__(self, count: int, *, freed: Callable[[], None] = lambda: None) -> None:
        self._semaphore = asyncio.Semaphore(count)
        self._freed = freed

    def take_now(self) -> bool:
        """Take a slot if that needs no waiting."""
        if self._semaphore.locked():
            return False
        run_now(self._semaphore.acquire())  # it is free, so this does not suspend
        return True

    def put_back(self) -> None:
        """Free a slot that was taken and not used: nothing changed that anybody should look at."""
        self._semaphore.release()

    def give_back(self) -> None:
        """Free a slot that was used."""
        self._semaphore.release()
        self._freed()

    async def acquire(self) -> None:
        """Wait for a slot and take it."""
        await self._semaphore.acquire()

    async def __aenter__(self) -> None:
        await self.acquire()

    async def __aexit__(self, *exc: object) -> None:
        self.give_back()


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """The layer can be mounted now.

    Attributes:
        sources: from where, dest itself among them if somebody else brought it there.
        waited: seconds that another's upload was waited for.
    """

    sources: frozenset[Repository]
    waited: float = 0.0


@dataclass(slots=True, kw_only=True, eq=False)
class Upload:
    """The layer is to be uploaded, by the one who has this; a slot for it is taken.

    Whoever gets it calls `publish` when the layer can be mounted from its repository, gives the slot back when
    the upload ended, and calls `release` in the end, however it ended.

    Attributes:
        waited: seconds that another's upload was waited for.
        publish: tells everybody that dest holds the layer.
        release: lets others take their turn. Doing it twice is harmless.
    """

    publish: Callable[[], Awaitable[None]] = field(repr=False)
    release: Callable[[], Awaitable[None]] = field(repr=False)
    waited: float = 0.0


Turn = Mount | Upload
