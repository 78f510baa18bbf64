"""A whole index made of the seed's four methods, for indexes of our users' own."""

from collections.abc import Iterable

from crossmount.errors import InvalidInputError
from crossmount.index.backing_server import BackingServer, backing_server
from crossmount.index.protocol import (
    Knowledge,
    LayerKnowledge,
    MountableLayers,
    MountIndex,
    RegistryTraits,
    Sighting,
)
from crossmount.oci import Digest, Located, Repository


def adapt(layers: MountableLayers) -> MountIndex:
    """Return `layers` itself if it is a whole index, else one that asks it layer by layer.

    Raises:
        InvalidInputError: it has not even the four methods.
    """
    if not isinstance(layers, MountableLayers):
        raise InvalidInputError(
            f"not an index: {type(layers).__name__}: give what open_index(url) returns, or None"
        )
    return layers if isinstance(layers, MountIndex) else FourMethodIndex(layers)


class FourMethodIndex:
    """The four methods of another index, and the rest as far as those four carry it.

    What they cannot say is not known: other registries, sizes, traits. What they cannot do is left undone: a
    source is not forgotten, the flag is not lifted.
    """

    def __init__(self, layers: MountableLayers) -> None:
        self._layers = layers

    async def add_source(self, layer: Digest, source: Located, *, must_mount: bool = False) -> None:
        """See `MountableLayers`."""
        await self._layers.add_source(layer, source, must_mount=must_mount)

    async def is_mountable(self, layer: Digest, dest: Located) -> bool:
        """See `MountableLayers`."""
        return await self._layers.is_mountable(layer, dest)

    async def must_mount(self, layer: Digest) -> bool:
        """See `MountableLayers`."""
        return await self._layers.must_mount(layer)

    async def sources(self, layer: Digest, dest: Located) -> tuple[Repository, ...]:
        """See `MountableLayers`."""
        return await self._layers.sources(layer, dest)

    async def look_up(self, layers: Iterable[Digest], dest: Located) -> Knowledge:
        """See `MountIndex`; three questions a layer, since that is what the four methods offer."""
        return Knowledge(
            {
                layer: LayerKnowledge(
                    sources=(sources := tuple(sorted(await self._layers.sources(layer, dest)))),
                    in_dest=bool(sources) and not await self._layers.is_mountable(layer, dest),
                    must_mount=await self._layers.must_mount(layer),
                )
                for layer in dict.fromkeys(layers)
            }
        )

    async def record(self, sightings: Iterable[Sighting]) -> None:
        """See `MountIndex`."""
        for seen in sightings:
            await self._layers.add_source(seen.layer, seen.repository, must_mount=seen.must_mount)

    async def forget(self, layer: Digest, *sources: Located) -> None:
        """Leave it: the four methods only add."""

    async def clear_must_mount(self, layer: Digest) -> None:
        """Leave it: the four methods only add."""

    async def locations(self, layer: Digest) -> tuple[Repository, ...]:
        """Return nothing: the four methods answer for one destination's registry only."""
        del layer
        return ()

    async def record_traits(self, registry: str, traits: RegistryTraits) -> None:
        """Leave it: the four methods know layers only."""

    def server(self) -> BackingServer | None:
        """See `ServerBacked`: that of the index below."""
        return backing_server(self._layers)

    async def aclose(self) -> None:
        """Leave it: whoever made the index below closes it."""
