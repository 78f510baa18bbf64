"""All that an index knows of one layer, as a value, and the optional abilities of indexes that deal in it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from crossmount.oci import Digest

LIFE_MAX = 100 * 365 * 24 * 3600
"""For how many seconds a source is believed at most, whatever somebody wrote."""


@dataclass(frozen=True, slots=True)
class Held:
    """The repositories on one registry that hold a layer, and for how many seconds that is still believed."""

    names: tuple[str, ...]
    left: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerEntry:
    """All that is known of one layer.

    Attributes:
        held: by registry; none for a layer that is only flagged.
        size: bytes, if known.
        must_mount: whether it may only be mounted.
    """

    layer: Digest
    held: Mapping[str, Held] = field(default_factory=dict)
    size: int | None = None
    must_mount: bool = False

    @property
    def sources(self) -> int:
        """How many repositories hold it."""
        return sum(len(held.names) for held in self.held.values())


@runtime_checkable
class Listed(Protocol):
    """An index that can list what it holds in this process."""

    def listed(self) -> Sequence[LayerEntry] | None:
        """Return that; None if it cannot be listed after all."""
        ...


def listed_by(index: object) -> Sequence[LayerEntry] | None:
    """Return what an index holds in this process; None if it cannot list that."""
    return index.listed() if isinstance(index, Listed) else None


@runtime_checkable
class Restorable(Protocol):
    """An index that takes whole entries."""

    async def restore(self, entries: Sequence[LayerEntry]) -> None:
        """Add entries to what is known, in one round trip: nothing is cut short, and no flag is lifted.

        Sources live as long as their entry says, and no longer than if they were recorded now.
        """
        ...
