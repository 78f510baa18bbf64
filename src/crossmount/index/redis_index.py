"""The index in Redis: a set of sources for each digest and registry, and a hash of flags for each digest.

All that is read back is untrusted: a value that breaks a grammar is ignored.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from crossmount._tasks import Closing
from crossmount.errors import IndexRefusedError
from crossmount.index.accounts import QueuesAccounts
from crossmount.index.adapt import SingleLayerMethods
from crossmount.index.aliases import NONE_THE_SAME, RegistryNames, SameRegistries
from crossmount.index.decode import (
    REGISTRIES_MAX,
    TRAITS_SECONDS,
    is_set,
    possible_registries,
    registry_field,
    registry_name,
    repositories,
    traits_fields,
)
from crossmount.index.exclusions import RedisExclusions
from crossmount.index.keys import Keys
from crossmount.index.look_up import TIME, LookUp, SharedFacts
from crossmount.index.must_mount import clear_must_mount, set_must_mount, this_user
from crossmount.index.protocol import (
    BackingServer,
    Knowledge,
    LayerEntry,
    RegistryTraits,
    Sighting,
)
from crossmount.oci import Digest, Located, Repository, as_digest, as_digests, as_repository
from crossmount.oci.reference import normalise_registry
from crossmount.redis.execute import run_all, run_scripted
from crossmount.redis.like import AsyncUserClient, client_like
from crossmount.redis.link import Link, ThreadedLink
from crossmount.redis.replies import Command, CommandRefusedError, WrongTypeError
from crossmount.redis.scripts import Script, load_script

TTL_SECONDS = 14 * 24 * 3600
SOURCES_MAX = 128

_NEEDED = frozenset({"HGETALL", "SRANDMEMBER"})
"""Commands that no look-up works without; where another is not allowed, a look-up knows less."""


class RedisMountIndex(RedisExclusions, SingleLayerMethods, QueuesAccounts, Closing):
    """An index on Redis or Valkey, shared by all clients of one server and namespace.

    Args:
        link: a link to the server, which `open_index` makes from a URL; or a client of redis-py, as there.
        hints: a link for look-ups, such as to replicas, whose answers may be a moment old; `link` by default.
        keys: the namespace.
        ttl: seconds until an entry expires, counted from when it was last recorded.
        bound: the most sources of a layer on one registry.
        same: names that are one registry, over those that the index shares.
        clock: epoch seconds.
    """

    def __init__(
        self,
        link: Link | AsyncUserClient,
        *,
        hints: Link | None = None,
        keys: Keys = Keys(),  # noqa: B008 a frozen value
        ttl: int = TTL_SECONDS,
        bound: int = SOURCES_MAX,
        same: SameRegistries = NONE_THE_SAME,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__()
        self.link = link if isinstance(link, Link) else ThreadedLink(client_like(link, asynchronous=True))
        self._shared = SharedFacts(RegistryNames(same), clock)
        self._names = self._shared.names
        self._hints = hints
        self._keys = keys
        self._ttl = ttl
        self._bound = bound
        self._clock = clock

    async def must_mount(self, layer: str) -> bool:
        """Return whether `layer` may only be mounted."""
        return is_set((await self._read([("HGET", self._keys.must_mount(as_digest(layer)), "since")]))[0])

    async def look_up(
        self, layers: Iterable[str], dest: str | Located, *, account: str | None = None, deletions: bool = False
    ) -> Knowledge:
        """Read everything about many layers in one round trip; a key of another type counts as missing.

        What the users of the index share is read along from time to time. A second round trip follows only if the
        names of dest's registry have changed, or if dest is not on the home registry and some layer may be there.

        Args:
            layers: the layers.
            dest: the destination.
            account: read also what this account may not read.
            deletions: read also which layers were deleted from dest.
        """
        return await self._look_up(as_digests(layers), as_repository(dest), account or "", deletions=deletions)

    async def _look_up(
        self, wanted: Sequence[Digest], dest: Repository, account: str, *, deletions: bool
    ) -> Knowledge:
        shared = self._shared
        while True:
            names = self._names.of(dest.registry)
            look_up = LookUp(
                layers=wanted, dest=dest, names=names, home=shared.home, deletions=deletions, account=account
            )
            commands, more = look_up.commands(self._keys, self._bound), []
            if shared.is_due:
                more = shared.commands(self._keys)
            replies = await self._read([*commands, *more])
            if more:
                shared.learn(replies[len(commands) :])
                del replies[len(commands) :]
            if self._names.of(dest.registry) == names and not look_up.is_short_of(shared.home, replies):
                break
        found = look_up.knowledge(replies, shared.now(), self._names)
        self._hits.add(found.layers.values())
        return found

    async def record(self, sightings: Iterable[Sighting]) -> None:
        """Record sightings in one round trip; very many are sent in pieces. Must-mount flags are set before.

        Raises:
            IndexRefusedError: the server refused some sightings; the others are recorded. Or the user may not set
                a must-mount flag; then nothing is recorded.
        """
        seen = list(sightings)
        await self._flag(each.layer for each in seen if each.must_mount)
        await self._write_counts(
            self._clock(),
            lambda counts: self._write_sources(
                lambda: [self._record(each, self._ttl) for each in seen], seen, also=counts
            ),
        )

    async def _flag(self, layers: Iterable[Digest]) -> None:
        if flagged := tuple(dict.fromkeys(layers)):
            await set_must_mount(self.server(), flagged, who=this_user())

    async def restore(self, entries: Sequence[LayerEntry]) -> None:
        """Restore exported entries.

        Raises:
            IndexRefusedError: the server refused some entries; the others are restored. Or the user may not set a
                must-mount flag; then nothing is restored.
        """
        await self._flag(entry.layer for entry in entries if entry.must_mount)
        seen = [
            (Sighting(entry.layer, Repository(registry, name), entry.size), min(sources.seconds_left, self._ttl))
            for entry in entries
            for registry, sources in entry.registries.items()
            for name in sources.names
        ]
        await self._write_sources(lambda: [self._record(*each) for each in seen], [each for each, _ in seen])

    async def _write_sources(
        self, make: Callable[[], list[Command]], seen: Sequence[Sighting], also: Sequence[Command] = ()
    ) -> list[Any]:
        """Record sightings, and note their registries before them, so that the home registry is known."""
        before: list[Command] = []
        if registries := list(dict.fromkeys(self._names.canonical(each.repository.registry) for each in seen)):
            if self._shared.home is None:
                self._shared.home = registries[0]  # a guess: if the reply has another, all is sent again
            keys, known = (self._keys.registries(),), registries[:REGISTRIES_MAX]
            before = [_script("note_registries").call(keys, self._ttl, REGISTRIES_MAX, *known)]
        return await self._write(make, before=before, also=also)

    async def forget(self, layer: str, *sources: str | Located) -> None:
        """Remove repositories as sources of `layer`, for all users of the index."""
        digest, places = as_digest(layer), [as_repository(source) for source in sources]
        await self._write(lambda: self._forget_all(digest, places))

    def _forget_all(self, layer: Digest, sources: Iterable[Located]) -> list[Command]:
        by_registry: dict[str, list[str]] = {}
        for source in sources:
            for registry in self._names.of(source.repository.registry):
                by_registry.setdefault(registry, []).append(source.repository.name)
        return [self._forget(layer, registry, names) for registry, names in by_registry.items()]

    async def clear_must_mount(self, layer: str) -> None:
        """Remove the must-mount flag of `layer`.

        Raises:
            IndexRefusedError: the user may not clear it.
        """
        await clear_must_mount(self.server(), as_digest(layer), ttl=self._ttl)

    async def locations(self, layer: str) -> tuple[Repository, ...]:
        """Return the sources on all registries, in two round trips: the first one finds the registries."""
        digest = as_digest(layer)
        replies = await self._read(
            [("HGETALL", self._keys.flags(digest)), ("HRANDFIELD", self._keys.registries(), REGISTRIES_MAX)]
        )
        registries = possible_registries(*replies)
        replies = await self._read(
            [("SRANDMEMBER", self._keys.sources(digest, registry), self._bound) for registry in registries]
        )
        return tuple(
            holder
            for registry, members in zip(registries, replies, strict=True)
            for holder in repositories(members, registry)
        )

    async def record_traits(self, registry: str, traits: RegistryTraits) -> None:
        """Record the traits of a registry for some hours; `None` leaves the known trait."""
        name = normalise_registry(registry)
        if fields := tuple(traits_fields(traits)):
            await self._write(
                lambda: [
                    _script("record_traits").call(
                        (self._keys.traits(self._names.canonical(name)),), TRAITS_SECONDS, *fields
                    )
                ]
            )

    def server(self) -> BackingServer:
        """Return the server, for leases and checkpoints."""
        return BackingServer(self.link, self._keys, self._names)

    def read_link(self) -> Link | None:
        """Return the link for look-ups, if it is another one."""
        return self._hints

    def registry_names(self) -> RegistryNames:
        """Return the names of registries, as this index uses them."""
        return self._names

    async def aclose(self) -> None:
        """Close the links."""
        for link in (self.link, self._hints):
            if link is not None:
                await link.aclose()

    def _record(self, seen: Sighting, ttl: int) -> Command:
        registry = self._names.canonical(seen.repository.registry)
        home, layer = self._shared.home, seen.layer
        return _script("record").call(
            (
                self._keys.sources(layer, registry),
                self._keys.flags(layer),
                self._keys.sources(layer, home or registry),
            ),
            seen.repository.name,
            registry_field(registry),
            "" if home is None else registry_field(home),
            ttl,
            self._bound,
            "" if seen.size is None else seen.size,
        )

    def _forget(self, layer: Digest, registry: str, names: Sequence[str]) -> Command:
        keys = (self._keys.sources(layer, registry), self._keys.flags(layer))
        return _script("forget").call(keys, registry_field(registry), *names)

    async def _write(
        self,
        make: Callable[[], list[Command]],
        *,
        before: Sequence[Command] = (),
        also: Sequence[Command] = (),
    ) -> list[Any]:
        """Run commands that write, and return the replies to `also`.

        Args:
            make: returns the commands, with the shared facts that are known now.
            before: commands that precede them in the same round trip, and return the home registry.
            also: commands for the same round trip whose refusal does not matter.
        """
        if not (commands := make()) and not also:
            return []
        # A call that does not follow a look-up reads the shared facts along, and repeats what they change.
        more = self._shared.commands(self._keys) if self._names.is_unread else []
        replies = await run_scripted(self.link, [*before, *more, *commands, *also])
        if more:
            self._shared.learn(replies[len(before) : len(before) + len(more)])
        if before:
            self._shared.home = registry_name(replies[0]) or self._shared.home
        replies = replies[len(before) + len(more) :]
        others = replies[len(commands) :]
        if (changed := make()) != commands:
            commands, replies = changed, await run_scripted(self.link, changed)
        for reply in replies[: len(commands)]:
            if isinstance(reply, IndexRefusedError):
                raise reply
        return others

    async def _read(self, commands: Sequence[Command]) -> list[Any]:
        """Run commands that read; return their replies, None where a command was refused.

        Raises:
            IndexRefusedError: all were refused, at least one for another reason than the type of a value; or one
                of those that every look-up needs is not allowed or not known there.
        """
        replies = await run_all(self._hints or self.link, commands)
        refused = [reply for reply in replies if isinstance(reply, IndexRefusedError)]
        if not refused:
            return replies
        about_keys = [reply for command, reply in zip(commands, replies, strict=True) if command != TIME]
        for command, reply in zip(commands, replies, strict=True):
            if isinstance(reply, CommandRefusedError) and command[0] in _NEEDED:
                raise reply
        not_our_keys = [reply for reply in refused if not isinstance(reply, WrongTypeError)]
        if not_our_keys and all(isinstance(reply, IndexRefusedError) for reply in about_keys):
            raise not_our_keys[0]
        return [None if isinstance(reply, IndexRefusedError) else reply for reply in replies]


def _script(name: str) -> Script:
    return load_script(name, "crossmount.index")
