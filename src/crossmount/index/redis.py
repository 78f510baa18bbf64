"""The index in Redis: sources in sets by registry and digest, what is known of a layer in a hash.

Everything read back is untrusted: what breaks a grammar is ignored, it never raises.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from crossmount.errors import IndexRefusedError, InvalidReferenceError
from crossmount.index.keys import Keys
from crossmount.index.link import Command, Link, ScriptMissingError
from crossmount.index.protocol import Knowledge, LayerKnowledge, RegistryTraits, Sighting
from crossmount.index.scripts import script
from crossmount.oci import Digest, Located, Repository
from crossmount.oci.reference import is_repository_name, normalise_registry

TTL_SECONDS = 14 * 24 * 3600
SOURCES_MAX = 128
TRAITS_SECONDS = 6 * 3600

_SCRIPTS = ("record", "forget", "clear_must_mount", "record_traits")
_TRAITS = ("mounts", "finds", "after_manifest")
_SIZE_MAX = 2**63 - 1


class RedisMountIndex:
    """An index on one Redis or Valkey server, shared by whoever has its address and namespace.

    Args:
        link: the way to the server; `open_index` makes one from a URL.
        keys: the namespace.
        ttl: seconds that a layer's entry lives after it was last recorded.
        bound: how many sources a layer keeps on one registry.
        clock: epoch seconds.
    """

    def __init__(
        self,
        link: Link,
        *,
        keys: Keys = Keys(),  # noqa: B008 a frozen value
        ttl: int = TTL_SECONDS,
        bound: int = SOURCES_MAX,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.link = link
        self._keys = keys
        self._ttl = ttl
        self._bound = bound
        self._clock = clock

    async def add_source(self, layer: Digest, source: Located, *, must_mount: bool = False) -> None:
        """See `MountableLayers`."""
        await self.record([Sighting(layer, source.repository, must_mount=must_mount)])

    async def is_mountable(self, layer: Digest, dest: Located) -> bool:
        """See `MountableLayers`."""
        known = (await self.look_up([layer], dest)).of(layer)
        return bool(known.sources) and not known.in_dest

    async def must_mount(self, layer: Digest) -> bool:
        """See `MountableLayers`."""
        replies = await self._run([("HGET", self._keys.flags(layer), "must_mount")])
        return bool(_or_nothing(replies)[0])

    async def sources(self, layer: Digest, dest: Located) -> tuple[Repository, ...]:
        """See `MountableLayers`."""
        return (await self.look_up([layer], dest)).of(layer).sources

    async def look_up(self, layers: Iterable[Digest], dest: Located) -> Knowledge:
        """See `MountIndex`; a key of a wrong type under one of our names makes that layer an unknown one."""
        dest_repository = dest.repository
        registry = dest_repository.registry
        wanted = list(dict.fromkeys(layers))
        commands: list[Command] = [("HGETALL", self._keys.traits(registry))]
        for layer in wanted:
            # SRANDMEMBER gives all of a set within the bound, and no more than that of one that somebody bloated
            commands.append(("SRANDMEMBER", self._keys.sources(layer, registry), self._bound))
            commands.append(("HGETALL", self._keys.flags(layer)))
        traits, *replies = _or_nothing(await self._run(commands))
        now = self._clock()
        return Knowledge(
            {
                layer: _layer_knowledge(replies[2 * i], replies[2 * i + 1], dest_repository, now)
                for i, layer in enumerate(wanted)
            },
            _traits(traits),
        )

    async def record(self, sightings: Iterable[Sighting]) -> None:
        """See `MountIndex`.

        Raises:
            IndexRefusedError: the server refused some; the others are recorded.
        """
        record = script("record")
        ends = int(self._clock()) + self._ttl
        await self._write(
            [
                record.call(
                    (
                        self._keys.sources(seen.layer, seen.repository.registry),
                        self._keys.flags(seen.layer),
                    ),
                    seen.repository.name,
                    _field(seen.repository.registry),
                    self._ttl,
                    ends,
                    self._bound,
                    "" if seen.size is None else seen.size,
                    "1" if seen.must_mount else "",
                )
                for seen in sightings
            ]
        )

    async def forget(self, layer: Digest, *sources: Located) -> None:
        """See `MountIndex`."""
        by_registry: dict[str, list[str]] = {}
        for source in sources:
            by_registry.setdefault(source.repository.registry, []).append(source.repository.name)
        forget = script("forget")
        await self._write(
            [
                forget.call(
                    (self._keys.sources(layer, registry), self._keys.flags(layer)), _field(registry), *names
                )
                for registry, names in by_registry.items()
            ]
        )

    async def clear_must_mount(self, layer: Digest) -> None:
        """See `MountIndex`."""
        call = script("clear_must_mount").call((self._keys.flags(layer),), int(self._clock()))
        await self._write([call])

    async def locations(self, layer: Digest) -> tuple[Repository, ...]:
        """See `MountIndex`; two round trips, since the registries are known only after the first."""
        flags = _or_nothing(await self._run([("HGETALL", self._keys.flags(layer))]))[0]
        registries = sorted(_registries(_as_map(flags), self._clock()))
        if not registries:
            return ()
        replies = await self._run(
            [("SRANDMEMBER", self._keys.sources(layer, registry), self._bound) for registry in registries]
        )
        return tuple(
            Repository(registry, name)
            for registry, members in zip(registries, _or_nothing(replies), strict=True)
            for name in sorted(_names(members))
        )

    async def record_traits(self, registry: str, traits: RegistryTraits) -> None:
        """See `MountIndex`."""
        fields = [
            part
            for name in _TRAITS
            if (value := getattr(traits, name)) is not None
            for part in (name, "1" if value else "0")
        ]
        if fields:
            key = self._keys.traits(normalise_registry(registry))
            await self._write([script("record_traits").call((key,), TRAITS_SECONDS, *fields)])

    async def aclose(self) -> None:
        """See `MountIndex`."""
        await self.link.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _run(self, commands: Sequence[Command]) -> list[Any]:
        """Run `commands`; load the scripts and run those again that wanted one the server does not know."""
        if not commands:
            return []
        replies = await self.link.run(commands)
        missing = [i for i, reply in enumerate(replies) if isinstance(reply, ScriptMissingError)]
        if missing:
            loads: list[Command] = [("SCRIPT LOAD", script(name).source) for name in _SCRIPTS]
            again = await self.link.run([*loads, *(commands[i] for i in missing)])
            for i, reply in zip(missing, again[len(loads) :], strict=True):
                replies[i] = reply
        return replies

    async def _write(self, commands: Sequence[Command]) -> None:
        for reply in await self._run(commands):
            if isinstance(reply, IndexRefusedError):
                raise reply


def _or_nothing(replies: list[Any]) -> list[Any]:
    """Return the replies with None for those that were refused.

    Raises:
        IndexRefusedError: all were refused, so it isn't about one key.
    """
    refused = [reply for reply in replies if isinstance(reply, IndexRefusedError)]
    if refused and len(refused) == len(replies):
        raise refused[0]
    return [None if isinstance(reply, IndexRefusedError) else reply for reply in replies]


def _field(registry: str) -> str:
    """Name a registry's field in the flags: its value says when its sources run out (epoch seconds)."""
    return f"@{registry}"


def _layer_knowledge(members: Any, flags: Any, dest: Repository, now: float) -> LayerKnowledge:
    fields = _as_map(flags)
    names = _names(members)
    in_dest = dest.name in names
    names.discard(dest.name)
    return LayerKnowledge(
        sources=tuple(dest.sibling(name) for name in sorted(names)),
        in_dest=in_dest,
        elsewhere=tuple(sorted(_registries(fields, now) - {dest.registry})) if fields else (),
        must_mount=b"must_mount" in fields,
        size=_number(fields.get(b"size")),
    )


def _as_map(reply: Any) -> Mapping[bytes, bytes]:
    return reply if isinstance(reply, dict) else {}


def _names(members: Any) -> set[str]:
    """Return the valid repository names among a set's members."""
    texts = (member.decode("ascii", "replace") for member in members or ())
    return {text for text in texts if is_repository_name(text)}


def _registries(fields: Mapping[bytes, bytes], now: float) -> set[str]:
    """Return the registries whose sources have not run out."""
    live: set[str] = set()
    for field, value in fields.items():
        if field[:1] == b"@" and (_number(value) or 0) > now:
            text = field[1:].decode("ascii", "replace")
            try:
                if normalise_registry(text) == text:
                    live.add(text)
            except InvalidReferenceError:
                continue  # not of our making: untrusted, so ignored
    return live


def _traits(reply: Any) -> RegistryTraits:
    words = {b"1": True, b"0": False}
    fields = _as_map(reply)
    return RegistryTraits(**{name: words.get(fields.get(name.encode(), b"")) for name in _TRAITS})


def _number(value: bytes | None) -> int | None:
    if value is None or not value.isdigit() or len(value) > len(str(_SIZE_MAX)):
        return None
    number = int(value)
    return number if number <= _SIZE_MAX else None
