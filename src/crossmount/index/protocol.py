"""The protocols of an index of mount sources, and the values that an index returns and records.

An index only gives hints. It grants no access and does not prove that a blob exists: the registry decides.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field
from typing import Protocol, Self, runtime_checkable

from crossmount._dataclass import dataclass
from crossmount.index.aliases import RegistryNames
from crossmount.index.keys import Keys
from crossmount.oci import Digest, Located, Repository, as_digest, as_repository
from crossmount.redis.link import Link

LIFE_MAX = 100 * 365 * 24 * 3600
"""The longest life of a source in seconds, even if another client wrote a longer one."""


@dataclass(frozen=True, slots=True)
class LayerKnowledge:
    """The entry of one layer in the index, for one destination.

    Attributes:
        sources: repositories on dest's registry that hold the layer, without dest, in order of name.
        in_dest: whether dest holds the layer.
        elsewhere: other registries with sources of the layer, in order of name.
        must_mount: whether the layer may only be mounted, never uploaded.
        size: its size in bytes, if known.
        deleted: whether a client deleted the layer from dest and nobody has begun to bring it back since; known
            only if the look-up asks for deletions.
    """

    sources: tuple[Repository, ...] = ()
    in_dest: bool = False
    elsewhere: tuple[str, ...] = ()
    must_mount: bool = False
    size: int | None = None
    deleted: bool = False


@dataclass(frozen=True, slots=True)
class RegistryTraits:
    """The observed behaviour of a registry; `None` if not observed yet.

    Attributes:
        mounts: it mounts from a source that the request names.
        finds: it mounts without a named source ("automatic mount origin discovery").
        after_manifest: it mounts only blobs that a manifest in the source repository references.
        truthful: False if it once answered 201 to a mount and then did not have the blob; True if it was asked
            for mounted blobs and had them.
    """

    mounts: bool | None = None
    finds: bool | None = None
    after_manifest: bool | None = None
    truthful: bool | None = None

    def updated(self, newer: Self) -> "RegistryTraits":
        """Return these traits, replaced by `newer` ones where observed. Once untruthful is untruthful."""
        return RegistryTraits(
            mounts=self.mounts if newer.mounts is None else newer.mounts,
            finds=self.finds if newer.finds is None else newer.finds,
            after_manifest=self.after_manifest if newer.after_manifest is None else newer.after_manifest,
            truthful=self.truthful if newer.truthful is None or self.truthful is False else newer.truthful,
        )


@dataclass(frozen=True, slots=True)
class Knowledge:
    """The result of one look-up for a whole image.

    Attributes:
        layers: an entry for each layer of the look-up.
        traits: the traits of dest's registry.
        denied: repositories of dest's registry that the caller's account may not read, if the look-up names it.
    """

    layers: Mapping[Digest, LayerKnowledge] = field(default_factory=dict)
    traits: RegistryTraits = RegistryTraits()
    denied: frozenset[Repository] = frozenset()

    def of(self, layer: Digest) -> LayerKnowledge:
        """Return the entry of `layer`, empty if there is none."""
        return self.layers.get(layer, NOTHING_KNOWN)


NOTHING_KNOWN = LayerKnowledge()


@dataclass(frozen=True, slots=True)
class Sighting:
    """A layer that was seen in a repository.

    Attributes:
        size: its size in bytes; None leaves the known size.
        must_mount: sets the must-mount flag; False leaves the flag as it is.
    """

    layer: Digest
    repository: Repository
    size: int | None = None
    must_mount: bool = False

    def __post_init__(self) -> None:
        """Take text in place of the digest and of the repository, and check it."""
        if type(self.layer) is not Digest:
            object.__setattr__(self, "layer", as_digest(self.layer))
        if type(self.repository) is not Repository:
            object.__setattr__(self, "repository", as_repository(self.repository))


@runtime_checkable
class MountableLayers(Protocol):
    """The smallest index: the methods that a mount needs to find a source."""

    async def add_source(self, layer: Digest, source: Located, *, must_mount: bool = False) -> None:
        """Add a repository that holds `layer`; `must_mount` sets the must-mount flag, and never removes it."""
        ...

    async def is_mountable(self, layer: Digest, dest: Located) -> bool:
        """Return whether another repository on dest's registry holds `layer` and dest itself does not."""
        ...

    async def must_mount(self, layer: Digest) -> bool:
        """Return whether `layer` may only be mounted."""
        ...

    async def sources(self, layer: Digest, dest: Located) -> tuple[Repository, ...]:
        """Return the repositories on dest's registry that hold `layer`, never dest's own, in order of name."""
        ...


@runtime_checkable
class MountIndex(MountableLayers, Protocol):
    """A full index: many layers in one round trip, removal of sources, and traits of registries."""

    async def look_up(self, layers: Iterable[Digest], dest: Located) -> Knowledge:
        """Read everything about many layers, and about dest's registry, in one round trip."""
        ...

    async def record(self, sightings: Iterable[Sighting]) -> None:
        """Record many sightings in one round trip; each renews the life of its sources.

        Record only what a registry confirmed: 201 on mount or upload, 200 on HEAD, or an accepted manifest.
        """
        ...

    async def forget(self, layer: Digest, *sources: Located) -> None:
        """Remove repositories as sources of `layer`, for all users of the index."""
        ...

    async def clear_must_mount(self, layer: Digest) -> None:
        """Remove the must-mount flag of `layer`."""
        ...

    async def locations(self, layer: Digest) -> tuple[Repository, ...]:
        """Return every repository, on every registry, that holds `layer`, in order."""
        ...

    async def record_traits(self, registry: str, traits: RegistryTraits) -> None:
        """Record the traits of a registry for some hours; `None` leaves the known trait."""
        ...

    async def aclose(self) -> None:
        """Close the connections."""
        ...


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


@dataclass(frozen=True, slots=True)
class BackingServer:
    """The server of an index.

    Attributes:
        link: a link to it, for event loops; the index closes it.
        keys: the keys of the index's namespace.
        names: the names of registries, as the index uses them.
    """

    link: Link
    keys: Keys
    names: RegistryNames = field(default_factory=RegistryNames, compare=False)


@runtime_checkable
class ReadsApart(Protocol):
    """An index whose look-ups may have servers of their own, such as replicas."""

    def read_link(self) -> Link | None:
        """Return the link to those servers; None if they are the same."""
        ...


def read_link_of(index: object) -> Link | None:
    """Return the link of an index's look-ups, if it is not that of all calls."""
    return index.read_link() if isinstance(index, ReadsApart) else None


@runtime_checkable
class ServerBacked(Protocol):
    """An index that may have a server."""

    def server(self) -> BackingServer | None:
        """Return the server; None if there is none."""
        ...


def backing_server(index: object) -> BackingServer | None:
    """Return the server of an index; None if it has none."""
    return index.server() if isinstance(index, ServerBacked) else None
