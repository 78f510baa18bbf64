"""The base class of what `async with` closes. It stands alone because eight packages share it."""

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self


class Closing(ABC):
    """Base class: `async with` returns the object, and closes it at the end of the block."""

    @abstractmethod
    async def aclose(self) -> None:
        """Close connections and end tasks."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
