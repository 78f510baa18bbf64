"""All that an index knows of one layer, as a value, and optional protocols of indexes that list or add entries."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from crossmount.oci import Digest

LIFE_MAX = 100 * 365 * 24 * 3600
"""The longest life of a source in seconds, even if a stranger wrote a longer one."""


@dataclass(frozen=True, slots=True)
class RegistrySources:
    """The repositories on one registry that hold a layer, and how long these sources live.

    Attributes:
        names: the repositories' names.
        seconds_left: seconds until the sources expire.
    """

    names: tuple[str, ...]
    seconds_left: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerEntry:
    """All that is known of one layer.

    Attributes:
        registries: the layer's sources by registry; empty for a layer that only has a must-mount flag.
        size: bytes, if known.
        must_mount: whether it may only be mounted.
    """

    layer: Digest
    registries: Mapping[str, RegistrySources] = field(default_factory=dict)
    size: int | None = None
    must_mount: bool = False

    @property
    def source_count(self) -> int:
        """The number of repositories that hold the layer."""
        return sum(len(sources.names) for sources in self.registries.values())


@runtime_checkable
class Listable(Protocol):
    """An index that can list its entries in this process."""

    def local_entries(self) -> Sequence[LayerEntry] | None:
        """Return the entries; None if they cannot be listed after all."""
        ...


def local_entries_of(index: object) -> Sequence[LayerEntry] | None:
    """Return the entries of an index in this process; None if it cannot list them."""
    return index.local_entries() if isinstance(index, Listable) else None


@runtime_checkable
class Restorable(Protocol):
    """An index that accepts whole entries."""

    async def restore(self, entries: Sequence[LayerEntry]) -> None:
        """Add entries in one round trip: no life is shortened, and no flag is removed.

        Sources live as long as their entry says, and no longer than sources that are recorded now.
        """
        ...
