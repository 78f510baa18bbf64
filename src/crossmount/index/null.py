"""No index: nothing is known, nothing is kept."""

from collections.abc import Iterable

from crossmount.index.protocol import Knowledge, RegistryTraits, Sighting
from crossmount.oci import Digest, Located, Repository


class NullIndex:
    """Stands where an index could, so that a push without one is no special case."""

    async def add_source(self, layer: Digest, source: Located, *, must_mount: bool = False) -> None:
        """Keep nothing."""

    async def is_mountable(self, layer: Digest, dest: Located) -> bool:
        """Know nothing."""
        del layer, dest
        return False

    async def must_mount(self, layer: Digest) -> bool:
        """Know nothing."""
        del layer
        return False

    async def sources(self, layer: Digest, dest: Located) -> tuple[Repository, ...]:
        """Know nothing."""
        del layer, dest
        return ()

    async def look_up(self, layers: Iterable[Digest], dest: Located) -> Knowledge:
        """Know nothing."""
        del layers, dest
        return Knowledge()

    async def record(self, sightings: Iterable[Sighting]) -> None:
        """Keep nothing."""

    async def forget(self, layer: Digest, *sources: Located) -> None:
        """Keep nothing."""

    async def clear_must_mount(self, layer: Digest) -> None:
        """Keep nothing."""

    async def locations(self, layer: Digest) -> tuple[Repository, ...]:
        """Know nothing."""
        del layer
        return ()

    async def record_traits(self, registry: str, traits: RegistryTraits) -> None:
        """Keep nothing."""

    async def aclose(self) -> None:
        """Hold nothing."""
