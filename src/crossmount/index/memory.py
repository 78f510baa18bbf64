"""The index in memory: of one process, alone or laid over another index."""

import random
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from crossmount._closing import Closing
from crossmount.index.adapt import widen
from crossmount.index.backing_server import Server, server_of
from crossmount.index.entry import LayerEntry, RegistrySources, local_entries_of
from crossmount.index.protocol import (
    Knowledge,
    LayerKnowledge,
    MountableLayers,
    RegistryTraits,
    Sighting,
    SingleLayerMethods,
)
from crossmount.index.redis_index import SOURCES_MAX, TRAITS_SECONDS, TTL_SECONDS
from crossmount.oci import Digest, Located, Repository
from crossmount.oci.reference import normalise_registry


@dataclass(slots=True)
class _Held:
    """The repositories on one registry that hold a layer, and until when that is believed (epoch seconds)."""

    names: set[str] = field(default_factory=set)
    until: float = 0.0


@dataclass(slots=True)
class _Layer:
    """All that is known of one layer."""

    held: dict[str, _Held] = field(default_factory=dict)
    size: int | None = None
    must_mount: bool = False

    def live(self, now: float) -> dict[str, _Held]:
        return {registry: held for registry, held in self.held.items() if held.until > now}


class MemoryMountIndex(SingleLayerMethods, Closing):
    """An index in this process, by itself or over another one.

    Over a backing index it answers with what either knows. What is added stays in memory: the backing index is
    only read, and told what turned out to be wrong (`forget`, `clear_must_mount`).

    Args:
        backing: the index below, whose closing stays with whoever made it.
        ttl: seconds that what is known of a layer on a registry lives after it was last recorded.
        bound: how many sources a layer keeps on one registry; with 0 nothing at all is kept.
        clock: epoch seconds.
        rng: chooses which old source makes way past the bound.
    """

    def __init__(
        self,
        backing: MountableLayers | None = None,
        *,
        ttl: int = TTL_SECONDS,
        bound: int = SOURCES_MAX,
        clock: Callable[[], float] = time.time,
        rng: random.Random | None = None,
    ) -> None:
        self._backing = None if backing is None else widen(backing)
        self._ttl = ttl
        self._bound = bound
        self._clock = clock
        self._rng = rng or random.Random()  # noqa: S311 no secret hangs on it
        self._lock = threading.Lock()
        self._layers: dict[Digest, _Layer] = {}
        self._traits: dict[str, tuple[RegistryTraits, float]] = {}

    async def must_mount(self, layer: Digest) -> bool:
        """See `MountableLayers`."""
        with self._lock:
            here = (known := self._known(layer)) is not None and known.must_mount
        return here or (self._backing is not None and await self._backing.must_mount(layer))

    async def look_up(self, layers: Iterable[Digest], dest: Located) -> Knowledge:
        """See `MountIndex`."""
        wanted = list(dict.fromkeys(layers))
        repository = dest.repository
        with self._lock:
            here = Knowledge(
                {layer: self._knowledge(layer, repository) for layer in wanted},
                self._live_traits(repository.registry),
            )
        if self._backing is None:
            return here
        below = await self._backing.look_up(wanted, dest)
        return Knowledge(
            {layer: _union(here.of(layer), below.of(layer)) for layer in wanted},
            below.traits.updated(here.traits),
        )

    async def record(self, sightings: Iterable[Sighting]) -> None:
        """See `MountIndex`."""
        if not self._bound:
            return
        with self._lock:
            until = int(self._clock()) + self._ttl
            for seen in sightings:
                layer = self._known(seen.layer) or self._layers.setdefault(seen.layer, _Layer())
                self._hold(layer, seen.repository.registry, seen.repository.name, until)
                layer.size = layer.size if seen.size is None else seen.size
                layer.must_mount = layer.must_mount or seen.must_mount

    async def restore(self, entries: Sequence[LayerEntry]) -> None:
        """See `Restorable`."""
        if not self._bound:
            return
        with self._lock:
            now = int(self._clock())
            for entry in entries:
                if not entry.registries and not entry.must_mount:
                    continue
                layer = self._known(entry.layer) or self._layers.setdefault(entry.layer, _Layer())
                for registry, held in entry.registries.items():
                    for name in held.names:
                        self._hold(layer, registry, name, now + min(held.seconds_left, self._ttl))
                layer.size = layer.size if entry.size is None else entry.size
                layer.must_mount = layer.must_mount or entry.must_mount
                self._drop_if_empty(entry.layer)

    def local_entries(self) -> Sequence[LayerEntry] | None:
        """See `Listable`; what an index below holds in this process is told too."""
        with self._lock:
            now = int(self._clock())
            here = [
                LayerEntry(
                    layer=layer,
                    registries={
                        registry: RegistrySources(tuple(sorted(held.names)), int(held.until) - now)
                        for registry, held in sorted(known.held.items())
                    },
                    size=known.size,
                    must_mount=known.must_mount,
                )
                for layer in list(self._layers)
                if (known := self._known(layer)) is not None
            ]
        return [*here, *(local_entries_of(self._backing) or ())]

    async def forget(self, layer: Digest, *sources: Located) -> None:
        """See `MountIndex`; the backing index is told too."""
        with self._lock:
            known = self._known(layer)
            for source in sources:
                held = known.held.get(source.repository.registry) if known is not None else None
                if known is not None and held is not None:
                    held.names.discard(source.repository.name)
                    if not held.names:
                        del known.held[source.repository.registry]
            self._drop_if_empty(layer)
        if self._backing is not None:
            await self._backing.forget(layer, *sources)

    async def clear_must_mount(self, layer: Digest) -> None:
        """See `MountIndex`; the backing index is told too."""
        with self._lock:
            known = self._known(layer)
            if known is not None:
                known.must_mount = False
                self._drop_if_empty(layer)
        if self._backing is not None:
            await self._backing.clear_must_mount(layer)

    async def locations(self, layer: Digest) -> tuple[Repository, ...]:
        """See `MountIndex`."""
        with self._lock:
            known = self._known(layer)
            live = {} if known is None else known.live(self._clock())
            here = {Repository(registry, name) for registry, held in live.items() for name in held.names}
        below = () if self._backing is None else await self._backing.locations(layer)
        return tuple(sorted(here.union(below)))

    async def record_traits(self, registry: str, traits: RegistryTraits) -> None:
        """See `MountIndex`."""
        name = normalise_registry(registry)
        if traits == RegistryTraits() or not self._bound:
            return
        with self._lock:
            self._traits[name] = self._live_traits(name).updated(traits), self._clock() + TRAITS_SECONDS

    def server(self) -> Server | None:
        """See `Served`: that of the index below."""
        return server_of(self._backing)

    async def aclose(self) -> None:
        """Do nothing: there is nothing to let go of."""

    def _known(self, layer: Digest) -> _Layer | None:
        """Return what is known of `layer`; what has run out is dropped on the way."""
        known = self._layers.get(layer)
        if known is not None:
            known.held = known.live(self._clock())
            self._drop_if_empty(layer)
        return self._layers.get(layer)

    def _hold(self, layer: _Layer, registry: str, name: str, until: float) -> None:
        """Add a source; what lives longer already is not cut short."""
        held = layer.live(self._clock()).get(registry) or _Held()
        layer.held[registry] = held
        held.names.add(name)
        while len(held.names) > self._bound:
            held.names.remove(self._rng.choice(sorted(held.names - {name})))
        held.until = max(held.until, until)

    def _drop_if_empty(self, layer: Digest) -> None:
        known = self._layers.get(layer)
        if known is not None and not known.held and not known.must_mount:
            del self._layers[layer]

    def _knowledge(self, layer: Digest, dest: Repository) -> LayerKnowledge:
        known = self._known(layer)
        if known is None:
            return LayerKnowledge()
        here = known.held.get(dest.registry)
        names = set() if here is None else here.names
        return LayerKnowledge(
            sources=tuple(dest.sibling(name) for name in sorted(names - {dest.name})),
            in_dest=dest.name in names,
            elsewhere=tuple(sorted(known.held.keys() - {dest.registry})),
            must_mount=known.must_mount,
            size=known.size,
        )

    def _live_traits(self, registry: str) -> RegistryTraits:
        traits, until = self._traits.get(registry, (RegistryTraits(), 0.0))
        return traits if until > self._clock() else RegistryTraits()


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
    )
