"""The index in the memory of one process, alone or over another index."""

import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import field

from crossmount._dataclass import dataclass
from crossmount._tasks import Closing
from crossmount.index.accounts import DelegatesAccounts, accounts_of
from crossmount.index.adapt import adapt
from crossmount.index.aliases import (
    NONE_THE_SAME,
    HasRegistryNames,
    RegistryNames,
    SameRegistries,
    registry_names_of,
)
from crossmount.index.decode import TRAITS_SECONDS
from crossmount.index.exclusions import LocalExclusions, look_up_excluding
from crossmount.index.protocol import (
    BackingServer,
    Knowledge,
    LayerEntry,
    LayerKnowledge,
    MountableLayers,
    RegistrySources,
    RegistryTraits,
    Sighting,
    backing_server,
    local_entries_of,
)
from crossmount.index.redis_index import SOURCES_MAX, TTL_SECONDS
from crossmount.index.registries import drop_local_traits
from crossmount.oci import Digest, Located, Repository, as_digest, as_digests, as_repository
from crossmount.oci.reference import normalise_registry
from crossmount.savings import MemoryAccounts


@dataclass(slots=True)
class _RegistrySources:
    """The repositories on one registry that hold a layer, and when these sources expire (epoch seconds)."""

    names: set[str] = field(default_factory=set)
    until: float = 0.0


@dataclass(slots=True)
class _Layer:
    """One layer."""

    registries: dict[str, _RegistrySources] = field(default_factory=dict)
    size: int | None = None
    must_mount: bool = False

    def remove(self, registry: str, name: str) -> None:
        if (held := self.registries.get(registry)) is not None:
            held.names.discard(name)
            if not held.names:
                del self.registries[registry]

    def live(self, now: float) -> dict[str, _RegistrySources]:
        return {registry: sources for registry, sources in self.registries.items() if sources.until > now}


class MemoryMountIndex(LocalExclusions, DelegatesAccounts, Closing):
    """An index in this process, alone or over a backing index.

    Answers combine both indexes. New entries stay in memory; `forget` and `clear_must_mount` also apply to the
    backing index.

    Args:
        backing: the backing index; the caller closes it.
        ttl: seconds until the sources of a layer on a registry expire after the last record.
        bound: the most sources of a layer on one registry; with 0 the index keeps nothing at all.
        same: names that are one registry; a backing index that has such names uses its own instead.
        clock: epoch seconds.
        rng: chooses the old source that a new one replaces at the bound.
    """

    def __init__(
        self,
        backing: MountableLayers | None = None,
        *,
        ttl: int = TTL_SECONDS,
        bound: int = SOURCES_MAX,
        same: SameRegistries = NONE_THE_SAME,
        clock: Callable[[], float] = time.time,
        rng: random.Random | None = None,
    ) -> None:
        self._backing = None if backing is None else adapt(backing)
        has_names = isinstance(backing, HasRegistryNames)
        self._names = registry_names_of(backing) if has_names else RegistryNames(same)
        self._ttl = ttl
        self._bound = bound
        super().__init__(clock)
        self._rng = rng or random.Random()  # noqa: S311 not used for secrets
        self._layers: dict[Digest, _Layer] = {}
        self._accounts = accounts_of(backing) or MemoryAccounts()
        self._traits: dict[str, tuple[RegistryTraits, float]] = {}

    async def must_mount(self, layer: str) -> bool:
        """Return whether `layer` may only be mounted."""
        digest = as_digest(layer)
        with self._lock:
            here = (known := self._known(digest)) is not None and known.must_mount
        return here or (self._backing is not None and await self._backing.must_mount(digest))

    async def look_up(
        self, layers: Iterable[str], dest: str | Located, *, account: str | None = None, deletions: bool = False
    ) -> Knowledge:
        """Read everything about many layers, and about dest's registry.

        Args:
            layers: the layers.
            dest: the destination.
            account: say also what this account may not read.
            deletions: say also which layers were deleted from dest.
        """
        wanted, repository = as_digests(layers), as_repository(dest)
        with self._lock:
            gone = self._deleted(wanted, repository) if deletions else set()
            here = Knowledge(
                {layer: self._knowledge(layer, repository, deleted=layer in gone) for layer in wanted},
                self._live_traits(repository.registry),
                self._denied(account, repository),
            )
        if self._backing is None:
            return here
        below = await look_up_excluding(self._backing, wanted, repository, account=account, deletions=deletions)
        return Knowledge(
            {layer: _union(here.of(layer), below.of(layer)) for layer in wanted},
            below.traits.updated(here.traits),
            below.denied | here.denied,
        )

    async def record(self, sightings: Iterable[Sighting]) -> None:
        """Record many sightings; each renews the life of the sources on its registry."""
        if not self._bound:
            return
        with self._lock:
            until = int(self._clock()) + self._ttl
            for seen in sightings:
                layer = self._known(seen.layer) or self._layers.setdefault(seen.layer, _Layer())
                self._add(layer, self._names.canonical(seen.repository.registry), seen.repository.name, until)
                layer.size = layer.size if seen.size is None else seen.size
                layer.must_mount = layer.must_mount or seen.must_mount

    async def restore(self, entries: Sequence[LayerEntry]) -> None:
        """Add whole entries; sources that live longer already are not shortened."""
        if not self._bound:
            return
        with self._lock:
            now = int(self._clock())
            for entry in entries:
                if not entry.registries and not entry.must_mount:
                    continue
                layer = self._known(entry.layer) or self._layers.setdefault(entry.layer, _Layer())
                for registry, sources in entry.registries.items():
                    for name in sources.names:
                        until = now + min(sources.seconds_left, self._ttl)
                        self._add(layer, self._names.canonical(registry), name, until)
                layer.size = layer.size if entry.size is None else entry.size
                layer.must_mount = layer.must_mount or entry.must_mount
                self._remove_if_empty(entry.layer)

    def local_entries(self) -> Sequence[LayerEntry] | None:
        """Return the entries of this process, including those of a backing index in memory."""
        with self._lock:
            now = int(self._clock())
            here = [
                LayerEntry(
                    layer=layer,
                    registries={
                        registry: RegistrySources(tuple(sorted(sources.names)), int(sources.until) - now)
                        for registry, sources in sorted(known.registries.items())
                    },
                    size=known.size,
                    must_mount=known.must_mount,
                )
                for layer in list(self._layers)
                if (known := self._known(layer)) is not None
            ]
        return [*here, *(local_entries_of(self._backing) or ())]

    async def forget(self, layer: str, *sources: str | Located) -> None:
        """Remove repositories as sources of `layer`, also from the backing index."""
        digest, places = as_digest(layer), [as_repository(source) for source in sources]
        with self._lock:
            known = self._known(digest)
            for place in places:
                for registry in self._names.of(place.registry):
                    if known is not None:
                        known.remove(registry, place.name)
            self._remove_if_empty(digest)
        if self._backing is not None:
            await self._backing.forget(digest, *places)

    async def clear_must_mount(self, layer: str) -> None:
        """Remove the must-mount flag, also from the backing index."""
        digest = as_digest(layer)
        with self._lock:
            known = self._known(digest)
            if known is not None:
                known.must_mount = False
                self._remove_if_empty(digest)
        if self._backing is not None:
            await self._backing.clear_must_mount(digest)

    async def locations(self, layer: str) -> tuple[Repository, ...]:
        """Return every repository, on every registry, that holds `layer`, in order."""
        digest = as_digest(layer)
        with self._lock:
            known = self._known(digest)
            live = {} if known is None else known.live(self._clock())
            here = {Repository(registry, name) for registry, sources in live.items() for name in sources.names}
        below = () if self._backing is None else await self._backing.locations(digest)
        return tuple(sorted(here.union(below)))

    async def record_traits(self, registry: str, traits: RegistryTraits) -> None:
        """Record the traits of a registry for some hours; `None` leaves the known trait."""
        name = self._names.canonical(normalise_registry(registry))
        if traits == RegistryTraits() or not self._bound:
            return
        with self._lock:
            self._traits[name] = self._live_traits(name).updated(traits), self._clock() + TRAITS_SECONDS

    def drop_traits(self, registry: str) -> None:
        """Forget the traits of a registry that are in this process, by any of its names."""
        with self._lock:
            for name in self._names.of(normalise_registry(registry)):
                self._traits.pop(name, None)
        drop_local_traits(self._backing, registry)

    def registry_names(self) -> RegistryNames:
        """Return the names of registries, as this index uses them."""
        return self._names

    def server(self) -> BackingServer | None:
        """Return the server of the backing index; None if there is none."""
        return backing_server(self._backing)

    async def aclose(self) -> None:
        """Do nothing: this index has no connections."""

    def _canonical(self, place: Located) -> Repository:
        """Return a repository by the canonical name of its registry."""
        return Repository(self._names.canonical(place.repository.registry), place.repository.name)

    def _known(self, layer: Digest) -> _Layer | None:
        """Return the entry of `layer` after removal of its expired sources."""
        known = self._layers.get(layer)
        if known is not None:
            known.registries = known.live(self._clock())
            self._remove_if_empty(layer)
        return self._layers.get(layer)

    def _add(self, layer: _Layer, registry: str, name: str, until: float) -> None:
        """Add a source; sources that live longer already are not shortened."""
        sources = layer.live(self._clock()).get(registry) or _RegistrySources()
        layer.registries[registry] = sources
        sources.names.add(name)
        while len(sources.names) > self._bound:
            sources.names.remove(self._rng.choice(sorted(sources.names - {name})))
        sources.until = max(sources.until, until)

    def _remove_if_empty(self, layer: Digest) -> None:
        known = self._layers.get(layer)
        if known is not None and not known.registries:
            known.size = None
            if not known.must_mount:
                del self._layers[layer]

    def _knowledge(self, layer: Digest, dest: Repository, *, deleted: bool) -> LayerKnowledge:
        known = self._known(layer)
        if known is None:
            return LayerKnowledge(deleted=deleted)
        registries = self._names.of(dest.registry)
        names = {name for each in registries if each in known.registries for name in known.registries[each].names}
        return LayerKnowledge(
            sources=tuple(dest.sibling(name) for name in sorted(names - {dest.name})),
            in_dest=dest.name in names,
            elsewhere=tuple(sorted({self._names.canonical(each) for each in known.registries} - {registries[0]})),
            must_mount=known.must_mount,
            size=known.size,
            deleted=deleted,
        )

    def _live_traits(self, registry: str) -> RegistryTraits:
        found = RegistryTraits()
        for name in reversed(self._names.of(registry)):
            traits, until = self._traits.get(name, (RegistryTraits(), 0.0))
            found = found.updated(traits) if until > self._clock() else found
        return found


def null_index() -> MemoryMountIndex:
    """Return an index that knows and keeps nothing, for a caller without an index."""
    return MemoryMountIndex(bound=0)


def _union(here: LayerKnowledge, below: LayerKnowledge) -> LayerKnowledge:
    return LayerKnowledge(
        sources=tuple(sorted({*here.sources, *below.sources})),
        in_dest=here.in_dest or below.in_dest,
        elsewhere=tuple(sorted({*here.elsewhere, *below.elsewhere})),
        must_mount=here.must_mount or below.must_mount,
        size=below.size if here.size is None else here.size,
        deleted=here.deleted or below.deleted,
    )
