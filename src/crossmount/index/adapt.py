"""Methods of an index that follow from its other methods, so that no index writes them again."""

from abc import abstractmethod
from collections.abc import Iterable

from crossmount._arguments import kind_of
from crossmount.errors import InvalidInputError
from crossmount.index.protocol import (
    BackingServer,
    Knowledge,
    LayerKnowledge,
    MountableLayers,
    MountIndex,
    RegistryTraits,
    Sighting,
    backing_server,
)
from crossmount.oci import Digest, Located, Repository, as_digest, as_repository


def adapt(layers: MountableLayers) -> MountIndex:
    """Return `layers` if it is a full index, else a full index over its four methods.

    Raises:
        InvalidInputError: it lacks one of the four methods.
    """
    if not isinstance(layers, MountableLayers):
        raise InvalidInputError(
            f"not an index: {type(layers).__name__}: give what open_index(url) returns, or None"
        )
    if isinstance(getattr(layers, "asynchronous", None), MountableLayers):
        raise InvalidInputError(f"index: {kind_of(layers)}: give what crossmount.asyncio.open_index(url) returns")
    return layers if isinstance(layers, MountIndex) else FourMethodIndex(layers)


class FourMethodIndex:
    """A full index over one that has only the four methods of `MountableLayers`.

    Other registries, sizes and traits are unknown to it. `forget` and `clear_must_mount` do nothing.
    """

    def __init__(self, layers: MountableLayers) -> None:
        self.adapted = layers

    async def add_source(self, layer: Digest, source: Located, *, must_mount: bool = False) -> None:
        """Add a repository that holds `layer`; `must_mount` sets the must-mount flag."""
        await self.adapted.add_source(layer, source, must_mount=must_mount)

    async def is_mountable(self, layer: Digest, dest: Located) -> bool:
        """Return whether another repository on dest's registry holds `layer` and dest itself does not."""
        return await self.adapted.is_mountable(layer, dest)

    async def must_mount(self, layer: Digest) -> bool:
        """Return whether `layer` may only be mounted."""
        return await self.adapted.must_mount(layer)

    async def sources(self, layer: Digest, dest: Located) -> tuple[Repository, ...]:
        """Return the repositories on dest's registry that hold `layer`, never dest's own, in order of name."""
        return await self.adapted.sources(layer, dest)

    async def look_up(self, layers: Iterable[Digest], dest: Located) -> Knowledge:
        """Read everything about many layers, with up to three calls for each."""
        return Knowledge(
            {
                layer: LayerKnowledge(
                    sources=(sources := tuple(sorted(await self.adapted.sources(layer, dest)))),
                    in_dest=bool(sources) and not await self.adapted.is_mountable(layer, dest),
                    must_mount=await self.adapted.must_mount(layer),
                )
                for layer in dict.fromkeys(layers)
            }
        )

    async def record(self, sightings: Iterable[Sighting]) -> None:
        """Record many sightings, with one call for each and without their sizes."""
        for seen in sightings:
            await self.adapted.add_source(seen.layer, seen.repository, must_mount=seen.must_mount)

    async def forget(self, layer: Digest, *sources: Located) -> None:
        """Do nothing: none of the four methods removes."""

    async def clear_must_mount(self, layer: Digest) -> None:
        """Do nothing: none of the four methods removes."""

    async def locations(self, layer: Digest) -> tuple[Repository, ...]:
        """Return nothing: the four methods find sources on one registry only."""
        del layer
        return ()

    async def record_traits(self, registry: str, traits: RegistryTraits) -> None:
        """Do nothing: none of the four methods stores traits."""

    def server(self) -> BackingServer | None:
        """Return the server of the index; None if it has none."""
        return backing_server(self.adapted)

    async def aclose(self) -> None:
        """Do nothing: the four methods have no close."""


class SingleLayerMethods:
    """Base class of indexes: the methods for one layer, derived from `look_up` and `record`."""

    @abstractmethod
    async def look_up(self, layers: Iterable[str], dest: str | Located) -> Knowledge:
        """Read everything about many layers, and about dest's registry."""

    @abstractmethod
    async def record(self, sightings: Iterable[Sighting]) -> None:
        """Record many sightings."""

    async def add_source(self, layer: str, source: str | Located, *, must_mount: bool = False) -> None:
        """Add a repository that holds `layer`; `must_mount` sets the must-mount flag, and never removes it."""
        await self.record([Sighting(as_digest(layer), as_repository(source), must_mount=must_mount)])

    async def is_mountable(self, layer: str, dest: str | Located) -> bool:
        """Return whether another repository on dest's registry holds `layer` and dest itself does not."""
        known = (await self.look_up([layer], dest)).of(as_digest(layer))
        return bool(known.sources) and not known.in_dest

    async def sources(self, layer: str, dest: str | Located) -> tuple[Repository, ...]:
        """Return the repositories on dest's registry that hold `layer`, never dest's own, in order of name."""
        return (await self.look_up([layer], dest)).of(as_digest(layer)).sources
