"""The index in Redis: a set of sources for each digest and registry, and a hash of flags for each digest.

All that is read back is untrusted: a value that breaks a grammar is ignored.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from crossmount._closing import Closing
from crossmount.errors import IndexRefusedError
from crossmount.index.accounts import QueuesAccounts
from crossmount.index.adapt import SingleLayerMethods
from crossmount.index.aliases import NONE_THE_SAME, RegistryNames, SameRegistries
from crossmount.index.decode import (
    as_map,
    live_registries,
    registry_field,
    repositories,
    traits_fields,
    truth,
)
from crossmount.index.exclusions import DELETION_SECONDS, DELETIONS_MAX, DENIAL_SECONDS, DENIALS_MAX, is_account
from crossmount.index.keys import STATS_SECONDS, Keys, day
from crossmount.index.look_up import HitCounter, LookUp
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
TRAITS_SECONDS = 6 * 3600

_NEEDED = frozenset({"HGETALL", "SRANDMEMBER"})
"""Commands that no look-up works without; where another is not allowed, a look-up knows less."""


class RedisMountIndex(SingleLayerMethods, QueuesAccounts, Closing):
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
        self._names = RegistryNames(same)
        self._hints = hints
        self._keys = keys
        self._ttl = ttl
        self._bound = bound
        self._clock = clock
        self._hits = HitCounter()

    async def must_mount(self, layer: str) -> bool:
        """Return whether `layer` may only be mounted."""
        return truth((await self._read([("HEXISTS", self._keys.flags(as_digest(layer)), "must_mount")]))[0])

    async def look_up(
        self, layers: Iterable[str], dest: str | Located, *, account: str | None = None, deletions: bool = False
    ) -> Knowledge:
        """Read everything about many layers in one round trip; a key of another type counts as missing.

        The names that the index shares are read along from time to time. A second round trip follows only if they
        have changed for dest's registry.

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
        while True:
            names, now = self._names.of(dest.registry), self._clock()
            look_up = LookUp(layers=wanted, dest=dest, names=names, deletions=deletions, account=account)
            shared = self._shared_names() if self._names.is_due(now) else []
            replies = await self._read([*look_up.commands(self._keys, self._bound), *shared])
            if shared:
                self._names.learn(as_map(replies.pop()), now)
            if self._names.of(dest.registry) == names:
                break
        found = look_up.knowledge(replies, now, self._names)
        self._hits.add(found.layers.values())
        return found

    async def record(self, sightings: Iterable[Sighting]) -> None:
        """Record sightings in one round trip; very many are sent in pieces.

        Raises:
            IndexRefusedError: the server refused some sightings; the others are recorded.
        """
        now, seen = int(self._clock()), list(sightings)
        await self._write_accounts(
            lambda accounts: self._write(
                lambda: [self._record(each, now, self._ttl) for each in seen],
                also=[*self._count(now), *accounts],
            )
        )

    async def restore(self, entries: Sequence[LayerEntry]) -> None:
        """Restore exported entries.

        Raises:
            IndexRefusedError: the server refused some entries; the others are restored.
        """
        now = int(self._clock())
        await self._write(lambda: self._restore_commands(entries, now))

    def _restore_commands(self, entries: Sequence[LayerEntry], now: int) -> list[Command]:
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
        return commands

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

    async def record_denied(self, registry: str, account: str, repositories: Iterable[Located]) -> None:
        """Remember for at most an hour what an account may not read."""
        names = sorted({each.repository.name for each in repositories})[:DENIALS_MAX]
        if names and is_account(account):
            name, record = normalise_registry(registry), _script("record_denied")

            def make() -> list[Command]:
                key = self._keys.denied(self._names.canonical(name), account)
                return [record.call((key,), DENIAL_SECONDS, DENIALS_MAX, *names)]

            await self._write(make)

    async def record_deletion(self, layer: Digest, repository: Located) -> None:
        """Remember a deletion for a day, and forget the source."""
        remember, name = _script("record_deletion"), repository.repository.name
        await self._write(
            lambda: [
                remember.call(
                    (self._deleted(layer, repository),),
                    name,
                    DELETION_SECONDS,
                    DELETIONS_MAX,
                ),
                *self._forget_all(layer, [repository]),
            ],
        )

    async def clear_deletion(self, layer: Digest, repository: Located) -> None:
        """Forget a deletion."""
        await self._write(lambda: [("SREM", self._deleted(layer, repository), repository.repository.name)])

    def _deleted(self, layer: Digest, repository: Located) -> str:
        return self._keys.deleted(layer, self._names.canonical(repository.repository.registry))

    async def clear_must_mount(self, layer: str) -> None:
        """Remove the must-mount flag of `layer`."""
        call = _script("clear_must_mount").call((self._keys.flags(as_digest(layer)),), int(self._clock()))
        await self._write(lambda: [call])

    async def locations(self, layer: str) -> tuple[Repository, ...]:
        """Return the sources on all registries, in two round trips: the first one finds the registries."""
        digest = as_digest(layer)
        (flags,) = await self._read([("HGETALL", self._keys.flags(digest))])
        registries = live_registries(as_map(flags), self._clock(), {})
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

    def registry_names(self) -> RegistryNames:
        """Return the names of registries, as this index uses them."""
        return self._names

    async def aclose(self) -> None:
        """Close the links."""
        for link in (self.link, self._hints):
            if link is not None:
                await link.aclose()

    def _record(self, seen: Sighting, now: int, ttl: int) -> Command:
        registry = self._names.canonical(seen.repository.registry)
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
        self,
        make: Callable[[], list[Command]],
        also: Sequence[Command] = (),
    ) -> list[Any]:
        """Run commands that write, and return the replies to `also`.

        Args:
            make: returns the commands, with the names of registries that are known now.
            also: commands for the same round trip whose refusal does not matter.
        """
        if not (commands := make()) and not also:
            return []
        # A call that does not follow a look-up reads the shared names along, and repeats what they change.
        shared = self._shared_names() if self._names.is_unread else []
        replies = await run_scripted(self.link, [*commands, *shared, *also])
        others = replies[len(commands) + len(shared) :]
        if shared:
            self._names.learn(as_map(replies[len(commands)]), self._clock())
            if (renamed := make()) != commands:
                commands, replies = renamed, await run_scripted(self.link, renamed)
        for reply in replies[: len(commands)]:
            if isinstance(reply, IndexRefusedError):
                raise reply
        return others

    def _shared_names(self) -> list[Command]:
        return [("HGETALL", self._keys.same_registry())]

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
        for command, reply in zip(commands, replies, strict=True):
            if isinstance(reply, CommandRefusedError) and command[0] in _NEEDED:
                raise reply
        not_our_keys = [reply for reply in refused if not isinstance(reply, WrongTypeError)]
        if not_our_keys and len(refused) == len(replies):
            raise not_our_keys[0]
        return [None if isinstance(reply, IndexRefusedError) else reply for reply in replies]


def _script(name: str) -> Script:
    return load_script(name, "crossmount.index")
