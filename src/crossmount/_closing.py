"""What is closed at the end of its `async with` block."""

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self


class Closing(ABC):
    """Is itself inside the block, and closed after it."""

    @abstractmethod
    async def aclose(self) -> None:
        """Let go of what is held: connections, tasks."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
