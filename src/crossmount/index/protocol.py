"""What an index of mount sources is: the seed's four methods, and what the mount needs on top of them.

An index only hints. Nothing here grants access or proves that a blob exists: the registry decides.
"""

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, Self, runtime_checkable

from crossmount.oci import Digest, Located, Repository


@dataclass(frozen=True, slots=True)
class LayerKnowledge:
    """What the index knows of one layer, as seen from one destination.

    Attributes:
        sources: repositories on dest's registry that hold the layer, dest itself left out, in order of name.
        in_dest: whether dest itself is known to hold it.
        elsewhere: other registries on which it is known, in order of name.
        must_mount: whether the layer may only be mounted, never uploaded.
        size: its size in bytes, if known.
    """

    sources: tuple[Repository, ...] = ()
    in_dest: bool = False
    elsewhere: tuple[str, ...] = ()
    must_mount: bool = False
    size: int | None = None


@dataclass(frozen=True, slots=True)
class RegistryTraits:
    """What a registry was seen to do; `None` where nothing was seen yet.

    Attributes:
        mounts: it mounts from a repository that is named.
        finds: it mounts without being told from where ("automatic mount origin discovery").
        after_manifest: it mounts only what a manifest in the source repository references.
    """

    mounts: bool | None = None
    finds: bool | None = None
    after_manifest: bool | None = None

    def updated(self, newer: Self) -> "RegistryTraits":
        """Return these traits with what `newer` saw laid over them."""
        return RegistryTraits(
            mounts=self.mounts if newer.mounts is None else newer.mounts,
            finds=self.finds if newer.finds is None else newer.finds,
            after_manifest=self.after_manifest if newer.after_manifest is None else newer.after_manifest,
        )


@dataclass(frozen=True, slots=True)
class Knowledge:
    """One read of the index for a whole image.

    Attributes:
        layers: an entry for each layer that was asked for.
        traits: what dest's registry was seen to do.
    """

    layers: Mapping[Digest, LayerKnowledge] = field(default_factory=dict)
    traits: RegistryTraits = RegistryTraits()

    def of(self, layer: Digest) -> LayerKnowledge:
        """Return what is known of `layer`, which may be nothing."""
        return self.layers.get(layer, NOTHING_KNOWN)


NOTHING_KNOWN = LayerKnowledge()


@dataclass(frozen=True, slots=True)
class Sighting:
    """A layer that was seen in a repository.

    Attributes:
        size: its size in bytes; None leaves what is known.
        must_mount: set the sticky flag; False leaves it as it is.
    """

    layer: Digest
    repository: Repository
    size: int | None = None
    must_mount: bool = False


@runtime_checkable
class MountableLayers(Protocol):
    """The least an index can be: what the mount needs to find a candidate."""

    async def add_source(self, layer: Digest, source: Located, *, must_mount: bool = False) -> None:
        """Add a repository that holds `layer`; `must_mount` sets the sticky flag, False never lifts it."""
        ...

    async def is_mountable(self, layer: Digest, dest: Located) -> bool:
        """Tell whether another repository on dest's registry holds `layer` and dest itself does not."""
        ...

    async def must_mount(self, layer: Digest) -> bool:
        """Tell whether `layer` may only be mounted."""
        ...

    async def sources(self, layer: Digest, dest: Located) -> tuple[Repository, ...]:
        """Return the repositories on dest's registry that hold `layer`, never dest's own, in order of name."""
        ...


@runtime_checkable
class MountIndex(MountableLayers, Protocol):
    """A whole index: many layers in one round trip, forgetting, and what registries were seen to do."""

    async def look_up(self, layers: Iterable[Digest], dest: Located) -> Knowledge:
        """Read everything about many layers, and about dest's registry, in one round trip."""
        ...

    async def record(self, sightings: Iterable[Sighting]) -> None:
        """Record many sightings in one round trip; each renews the life of what it touches.

        Only what a registry confirmed belongs here (201 on mount or upload, 200 on HEAD, a manifest accepted).
        """
        ...

    async def forget(self, layer: Digest, *sources: Located) -> None:
        """Drop repositories as sources of `layer`, for everybody."""
        ...

    async def clear_must_mount(self, layer: Digest) -> None:
        """Lift the sticky flag."""
        ...

    async def locations(self, layer: Digest) -> tuple[Repository, ...]:
        """Return every repository, on every registry, that is known to hold `layer`, in order."""
        ...

    async def record_traits(self, registry: str, traits: RegistryTraits) -> None:
        """Remember for some hours what a registry was seen to do; `None` leaves what is known."""
        ...

    async def aclose(self) -> None:
        """Let go of connections."""
        ...


class SingleLayerMethods:
    """Base class of indexes: the methods for one layer, derived from `look_up` and `record`."""

    @abstractmethod
    async def look_up(self, layers: Iterable[Digest], dest: Located) -> Knowledge:
        """Read everything about many layers, and about dest's registry."""

    @abstractmethod
    async def record(self, sightings: Iterable[Sighting]) -> None:
        """Record many sightings."""

    async def add_source(self, layer: Digest, source: Located, *, must_mount: bool = False) -> None:
        """Add a repository that holds `layer`; `must_mount` sets the sticky flag, False never lifts it."""
        await self.record([Sighting(layer, source.repository, must_mount=must_mount)])

    async def is_mountable(self, layer: Digest, dest: Located) -> bool:
        """Tell whether another repository on dest's registry holds `layer` and dest itself does not."""
        known = (await self.look_up([layer], dest)).of(layer)
        return bool(known.sources) and not known.in_dest

    async def sources(self, layer: Digest, dest: Located) -> tuple[Repository, ...]:
        """Return the repositories on dest's registry that hold `layer`, never dest's own, in order of name."""
        return (await self.look_up([layer], dest)).of(layer).sources
