"""The index in Redis: a set of sources for each digest and registry, and a hash of flags for each digest.

All that is read back is untrusted: a value that breaks a grammar is ignored.
"""

import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any

from crossmount._closing import Closing
from crossmount.errors import IndexRefusedError
from crossmount.index.adapt import SingleLayerMethods
from crossmount.index.decode import (
    Decoder,
    as_map,
    live_registries,
    registry_field,
    repositories,
    traits_fields,
    traits_of,
    truth,
)
from crossmount.index.deletions import DELETION_SECONDS, DELETIONS_MAX
from crossmount.index.keys import STATS_SECONDS, Keys, day
from crossmount.index.protocol import (
    BackingServer,
    Knowledge,
    LayerEntry,
    LayerKnowledge,
    RegistryTraits,
    Sighting,
)
from crossmount.oci import Digest, Located, Repository
from crossmount.oci.reference import normalise_registry
from crossmount.redis.execute import Script, load_script, run_scripted
from crossmount.redis.link import Link
from crossmount.redis.replies import Command, WrongTypeError

TTL_SECONDS = 14 * 24 * 3600
SOURCES_MAX = 128
TRAITS_SECONDS = 6 * 3600

_SCRIPTS = ("record", "forget", "clear_must_mount", "record_traits", "count")
_DELETION_SCRIPTS = ("record_deletion", "forget")  # few need them

_LOOK_UPS_MAX = 1000


class HitCounter:
    """Counts of look-ups that are not on the server yet.

    A look-up must not write, so its count is sent with the next `record`, as an additional command. Look-ups of a
    client that never records are not counted, and of too many look-ups the oldest are dropped. There is no lock,
    since a fork could leave it locked.
    """

    def __init__(self) -> None:
        self._waiting: deque[tuple[int, int]] = deque(maxlen=_LOOK_UPS_MAX)

    def add(self, layers: Collection[LayerKnowledge]) -> None:
        """Count a look-up; a layer is known if dest has it, or if it can be mounted."""
        if layers:
            self._waiting.append((len(layers), sum(1 for known in layers if known.in_dest or known.sources)))

    def take(self) -> tuple[int, int]:
        """Return the number of layers looked up since the last call, and how many of them were known."""
        asked = known = 0
        while self._waiting:
            try:
                more = self._waiting.popleft()
            except IndexError:  # another thread was faster
                break
            asked, known = asked + more[0], known + more[1]
        return asked, known


class RedisMountIndex(SingleLayerMethods, Closing):
    """An index on Redis or Valkey, shared by all clients of one server and namespace.

    Args:
        link: a link to the server; `open_index` makes one from a URL.
        hints: a link for look-ups, such as to replicas, whose answers may be a moment old; `link` by default.
        keys: the namespace.
        ttl: seconds until an entry expires, counted from when it was last recorded.
        bound: the most sources of a layer on one registry.
        clock: epoch seconds.
    """

    def __init__(
        self,
        link: Link,
        *,
        hints: Link | None = None,
        keys: Keys = Keys(),  # noqa: B008 a frozen value
        ttl: int = TTL_SECONDS,
        bound: int = SOURCES_MAX,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.link = link
        self._hints = hints
        self._keys = keys
        self._ttl = ttl
        self._bound = bound
        self._clock = clock
        self._hits = HitCounter()

    async def must_mount(self, layer: Digest) -> bool:
        """Return whether `layer` may only be mounted."""
        return truth((await self._read([("HEXISTS", self._keys.flags(layer), "must_mount")]))[0])

    async def look_up(self, layers: Iterable[Digest], dest: Located) -> Knowledge:
        """Read everything about many layers in one round trip; a key of another type counts as missing."""
        return await self._look_up(list(dict.fromkeys(layers)), dest.repository, deletions=False)

    async def look_up_with_deletions(self, layers: Iterable[Digest], dest: Located) -> Knowledge:
        """Do the same, and read in the same round trip what was deleted from dest."""
        return await self._look_up(list(dict.fromkeys(layers)), dest.repository, deletions=True)

    async def _look_up(self, wanted: Sequence[Digest], dest: Repository, *, deletions: bool) -> Knowledge:
        registry = dest.registry
        commands: list[Command] = [("HGETALL", self._keys.traits(registry))]
        for layer in wanted:
            # SRANDMEMBER returns all members of a set within the bound, and of a larger one as many as the bound
            commands.append(("SRANDMEMBER", self._keys.sources(layer, registry), self._bound))
            commands.append(("HGETALL", self._keys.flags(layer)))
        if deletions:
            commands += [("SISMEMBER", self._keys.deleted(layer, registry), dest.name) for layer in wanted]
        replies = await self._read(commands)
        decoder, end = Decoder(dest, self._clock()), 1 + 2 * len(wanted)
        known = {
            layer: decoder.layer(members, flags)
            for layer, members, flags in zip(wanted, replies[1:end:2], replies[2:end:2], strict=True)
        }
        for layer, reply in zip(wanted, replies[end:], strict=False):
            if truth(reply):
                known[layer] = replace(known[layer], deleted=True)
        self._hits.add(known.values())
        return Knowledge(known, traits_of(replies[0]))

    async def record(self, sightings: Iterable[Sighting]) -> None:
        """Record sightings in one round trip.

        Raises:
            IndexRefusedError: the server refused some sightings; the others are recorded.
        """
        now = int(self._clock())
        await self._write(
            [self._record(seen, now, self._ttl) for seen in sightings],
            also=self._count(now),
        )

    async def restore(self, entries: Sequence[LayerEntry]) -> None:
        """Restore exported entries.

        Raises:
            IndexRefusedError: the server refused some entries; the others are restored.
        """
        now = int(self._clock())
        commands: list[Command] = []
        for entry in entries:
            for registry, sources in entry.registries.items():
                life = min(sources.seconds_left, self._ttl)
                for name in sources.names:
                    seen = Sighting(entry.layer, Repository(registry, name), entry.size, entry.must_mount)
                    commands.append(self._record(seen, now, life))
            if entry.must_mount and not entry.registries:
                flags = self._keys.flags(entry.layer)
                known = () if entry.size is None else ("size", entry.size)
                commands += [("HSET", flags, "must_mount", "1", *known), ("PERSIST", flags)]
        await self._write(commands)

    async def forget(self, layer: Digest, *sources: Located) -> None:
        """Remove repositories as sources of `layer`, for all users of the index."""
        by_registry: dict[str, list[str]] = {}
        for source in sources:
            by_registry.setdefault(source.repository.registry, []).append(source.repository.name)
        await self._write([self._forget(layer, registry, names) for registry, names in by_registry.items()])

    async def record_deletion(self, layer: Digest, repository: Located) -> None:
        """Remember a deletion for a day, and forget the source."""
        registry, name = repository.repository.registry, repository.repository.name
        key = self._keys.deleted(layer, registry)
        remember = _script("record_deletion").call((key,), name, DELETION_SECONDS, DELETIONS_MAX)
        await self._write([remember, self._forget(layer, registry, [name])], scripts=_DELETION_SCRIPTS)

    async def clear_deletion(self, layer: Digest, repository: Located) -> None:
        """Forget a deletion."""
        found = repository.repository
        await self._write([("SREM", self._keys.deleted(layer, found.registry), found.name)])

    async def clear_must_mount(self, layer: Digest) -> None:
        """Remove the must-mount flag of `layer`."""
        call = _script("clear_must_mount").call((self._keys.flags(layer),), int(self._clock()))
        await self._write([call])

    async def locations(self, layer: Digest) -> tuple[Repository, ...]:
        """Return the sources on all registries, in two round trips: the first one finds the registries."""
        (flags,) = await self._read([("HGETALL", self._keys.flags(layer))])
        registries = live_registries(as_map(flags), self._clock(), {})
        replies = await self._read(
            [("SRANDMEMBER", self._keys.sources(layer, registry), self._bound) for registry in registries]
        )
        return tuple(
            holder
            for registry, members in zip(registries, replies, strict=True)
            for holder in repositories(members, registry)
        )

    async def record_traits(self, registry: str, traits: RegistryTraits) -> None:
        """Record the traits of a registry for some hours; `None` leaves the known trait."""
        key = self._keys.traits(normalise_registry(registry))
        if fields := tuple(traits_fields(traits)):
            await self._write([_script("record_traits").call((key,), TRAITS_SECONDS, *fields)])

    def server(self) -> BackingServer:
        """Return the server, for leases and checkpoints."""
        return BackingServer(self.link, self._keys)

    async def aclose(self) -> None:
        """Close the links."""
        for link in (self.link, self._hints):
            if link is not None:
                await link.aclose()

    async def _run(self, commands: Sequence[Command], scripts: Sequence[str]) -> list[Any]:
        return await run_scripted(self.link, commands, [_script(name) for name in scripts])

    def _record(self, seen: Sighting, now: int, ttl: int) -> Command:
        registry = seen.repository.registry
        return _script("record").call(
            (self._keys.sources(seen.layer, registry), self._keys.flags(seen.layer)),
            seen.repository.name,
            registry_field(registry),
            ttl,
            now + ttl,
            self._bound,
            "" if seen.size is None else seen.size,
            "1" if seen.must_mount else "",
        )

    def _forget(self, layer: Digest, registry: str, names: Sequence[str]) -> Command:
        keys = (self._keys.sources(layer, registry), self._keys.flags(layer))
        return _script("forget").call(keys, int(self._clock()), registry_field(registry), *names)

    def _count(self, now: int) -> list[Command]:
        """Return the command that stores the hit counter, if there were look-ups."""
        asked, known = self._hits.take()
        return [_script("count").call((self._keys.stats(day(now)),), STATS_SECONDS, asked, known)] if asked else []

    async def _write(
        self, commands: Sequence[Command], also: Sequence[Command] = (), *, scripts: Sequence[str] = _SCRIPTS
    ) -> None:
        """Run `commands`, and in the same round trip others whose refusal does not matter."""
        replies = await self._run([*commands, *also], scripts) if commands else []
        for reply in replies[: len(commands)]:
            if isinstance(reply, IndexRefusedError):
                raise reply

    async def _read(self, commands: Sequence[Command]) -> list[Any]:
        """Run commands that read; return their replies, None where a command was refused.

        Raises:
            IndexRefusedError: all were refused, at least one for another reason than the type of a value.
        """
        replies = await (self._hints or self.link).run(commands) if commands else []
        refused = [reply for reply in replies if isinstance(reply, IndexRefusedError)]
        if not refused:
            return replies
        not_our_keys = [reply for reply in refused if not isinstance(reply, WrongTypeError)]
        if not_our_keys and len(refused) == len(replies):
            raise not_our_keys[0]
        return [None if isinstance(reply, IndexRefusedError) else reply for reply in replies]


def _script(name: str) -> Script:
    return load_script(name, "crossmount.index")
