"""Which repository holds which layer: the protocol of an index, and the indexes in memory and in Redis."""

from crossmount.index.adapt import adapt
from crossmount.index.guard import GuardedIndex
from crossmount.index.keys import Keys
from crossmount.index.memory import MemoryMountIndex, null_index
from crossmount.index.opening import open_index
from crossmount.index.protocol import (
    Knowledge,
    LayerKnowledge,
    MountableLayers,
    MountIndex,
    RegistryTraits,
    Sighting,
)
from crossmount.index.redis_index import RedisMountIndex

__all__ = [
    "GuardedIndex",
    "Keys",
    "Knowledge",
    "LayerKnowledge",
    "MemoryMountIndex",
    "MountIndex",
    "MountableLayers",
    "RedisMountIndex",
    "RegistryTraits",
    "Sighting",
    "adapt",
    "null_index",
    "open_index",
]
