"""Counts of layers, in constant memory for any number of layers. Pure."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import field

from crossmount._dataclass import dataclass
from crossmount.index.protocol import LayerEntry
from crossmount.index.redis_index import TTL_SECONDS

REGISTRIES_MAX = 10_000
"""The largest number of registries that are counted separately."""

_AGE_STEP = 60
"""Ages are rounded to this many seconds, which bounds how many there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryInfo:
    """The counts of one registry, according to the index.

    Attributes:
        layers: layers on it.
        sources: repositories that have them, summed over the layers.
        size: bytes of the layers, each once.
    """

    layers: int
    sources: int
    size: int


@dataclass(slots=True)
class _RegistryCounts:
    layers: float = 0
    sources: float = 0
    size: float = 0


@dataclass(slots=True)
class LayerCounts:
    """The counts of the layers so far; fractions when each layer of a sample stands for several."""

    layers: float = 0
    sources: float = 0
    size: float = 0
    unsized: float = 0
    flagged: float = 0
    stranded: float = 0
    _registries: dict[str, _RegistryCounts] = field(default_factory=lambda: defaultdict(_RegistryCounts))
    _ages: Counter[int] = field(default_factory=Counter)

    def add(self, entry: LayerEntry) -> None:
        """Count a layer.

        Its age follows from its remaining time to live, which each renewal resets; a layer that was written with
        another time to live than the default seems older or younger than it is.
        """
        self.layers += 1
        self.sources += entry.source_count
        self.size += entry.size or 0
        self.unsized += entry.size is None
        self.flagged += entry.must_mount
        self.stranded += entry.must_mount and not entry.registries
        for registry, held in entry.registries.items():
            if registry in self._registries or len(self._registries) < REGISTRIES_MAX:
                self._registries[registry].layers += 1
                self._registries[registry].sources += len(held.names)
                self._registries[registry].size += entry.size or 0
        if entry.registries:
            left = max(held.seconds_left for held in entry.registries.values())
            self._ages[max(TTL_SECONDS - left, 0) // _AGE_STEP] += 1

    def merge(self, other: "LayerCounts", factor: float) -> None:
        """Add other counts, each layer of which stands for `factor` layers."""
        for name in ("layers", "sources", "size", "unsized", "flagged", "stranded"):
            setattr(self, name, getattr(self, name) + factor * getattr(other, name))
        for registry, counted in other._registries.items():  # noqa: SLF001 another of its own kind
            own = self._registries[registry]
            own.layers += factor * counted.layers
            own.sources += factor * counted.sources
            own.size += factor * counted.size
        self._ages.update(other._ages)  # noqa: SLF001 see above

    def by_registry(self) -> Mapping[str, RegistryInfo]:
        """Return the counts of each registry, the one with the most layers first."""
        ordered = sorted(self._registries.items(), key=lambda item: (-item[1].layers, item[0]))
        return {
            name: RegistryInfo(layers=round(each.layers), sources=round(each.sources), size=round(each.size))
            for name, each in ordered
        }

    def ages(self) -> tuple[float | None, float | None, float | None]:
        """Return the seconds since layers were renewed: the newest, the median, the oldest."""
        if not self._ages:
            return None, None, None
        steps = sorted(self._ages)
        middle, passed = self._ages.total() / 2, 0
        for median in steps:
            passed += self._ages[median]
            if passed >= middle:
                break
        return _seconds(steps[0]), _seconds(median), _seconds(steps[-1])


def _seconds(step: int) -> float:
    return float(step * _AGE_STEP)
