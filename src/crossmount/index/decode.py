"""Replies of the index's server, parsed into values. They are untrusted: invalid parts are ignored."""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from itertools import islice
from typing import Any

from crossmount.errors import InvalidReferenceError
from crossmount.index.aliases import RegistryNames
from crossmount.index.exclusions import DENIAL_SECONDS
from crossmount.index.protocol import LayerKnowledge, RegistryTraits
from crossmount.oci import Repository
from crossmount.oci.reference import DOCKER_HUB, is_repository_name, normalise_registry

TRAITS = ("mounts", "finds", "after_manifest", "truthful")
TRAITS_SECONDS = 6 * 3600
"""How long traits of a registry live after they were recorded."""

REGISTRIES_MAX = 128
"""The most registries of one layer that are read."""

_NAMES_MAX = 8192
_NUMBER_MAX = 2**63 - 1
_NUMBER_DIGITS = len(str(_NUMBER_MAX))
_TRUTH = {b"1": True, b"0": False}


def registry_field(registry: str) -> str:
    """Return a registry's field in a layer's flags; its value is when the sources expire (epoch seconds)."""
    return f"@{registry}"


class Decoder:
    """Parses the replies to one look-up. Layers share repositories and registries, so each is checked once.

    Args:
        dest: the destination of the look-up.
        now: epoch seconds; registries whose sources have expired are left out.
        names: the names of registries, as the index uses them.
    """

    def __init__(self, dest: Repository, now: float, names: RegistryNames) -> None:
        self._dest = dest
        self._names = names
        self._canonical = names.canonical(dest.registry)
        self._now = now
        self._holders: dict[tuple[bytes, ...], tuple[tuple[Repository, ...], bool]] = {}
        self._registries: dict[bytes, str | None] = {}

    def layer(self, members: Any, flags: Any, since: Any, at_home: Any, home: str | None) -> LayerKnowledge:
        """Return the entry of a layer.

        Args:
            members: the members of its sets on dest's registry.
            flags: its flags; none if it is on the home registry alone.
            since: when its must-mount flag was set.
            at_home: the members of its set on the home registry; None if that is dest's.
            home: the home registry.
        """
        size, names = split_size(texts(members))
        if names not in self._holders:
            self._holders[names] = self._read_holders(names)
        sources, in_dest = self._holders[names]
        must_mount = since is not None and is_set(since)
        if not flags and at_home is None:  # most layers are on the home registry only
            return LayerKnowledge(sources, in_dest, must_mount=must_mount, size=size)
        fields = as_map(flags)
        live = {self._names.canonical(name) for name in live_registries(fields, self._now, self._registries)}
        size_there, names_there = split_size(texts(at_home))
        if home is not None and repository_names(list(names_there), home):
            live.add(self._names.canonical(home))
        sizes = (number(fields.get(b"size")), size, size_there)
        return LayerKnowledge(
            sources,
            in_dest,
            tuple(sorted(live - {self._canonical})),
            must_mount,
            next((each for each in sizes if each is not None), None),
        )

    def _read_holders(self, members: tuple[bytes, ...]) -> tuple[tuple[Repository, ...], bool]:
        """Return dest's siblings among a set's members, in order, and whether dest is one of the members."""
        names = {_name(member, self._dest.registry) for member in members} - {None}
        others = sorted(name for name in names if name is not None and name != self._dest.name)
        return tuple([self._dest.sibling(name) for name in others]), self._dest.name in names


def live_registries(fields: Mapping[bytes, bytes], now: float, checked: dict[bytes, str | None]) -> list[str]:
    """Return the registries whose sources have not expired, in order.

    Args:
        fields: a layer's flags.
        now: epoch seconds.
        checked: a cache of the registry that each field names; None if it names none.
    """
    found = []
    for field, value in fields.items():
        if field.startswith(b"@") and (number(value) or 0) > now:
            if field not in checked:
                checked[field] = registry_name(field[1:])
            registry = checked[field]
            if registry is not None:
                found.append(registry)
    found.sort()
    return found[:REGISTRIES_MAX]


def possible_registries(flags: Any, known: Any) -> list[str]:
    """Return the registries that a layer may be on, in order: those in its flags first, then others of the index.

    Args:
        flags: the layer's flags, which may be missing.
        known: fields of the index's hash of registries.
    """
    fields = [*as_map(flags), *texts(known)]
    names = (registry_name(field[1:]) for field in fields if field.startswith(b"@"))
    return sorted(dict.fromkeys(islice((name for name in names if name is not None), REGISTRIES_MAX)))


def repositories(members: Any, registry: str) -> list[Repository]:
    """Return the repositories on `registry` that a set's members name, in order."""
    return [Repository(registry, name) for name in repository_names(members, registry)]


def texts(members: Any) -> tuple[bytes, ...]:
    """Return the members of a set; none if the reply is no list."""
    return tuple([member for member in members if type(member) is bytes]) if isinstance(members, list) else ()


def split_size(members: tuple[bytes, ...]) -> tuple[int | None, tuple[bytes, ...]]:
    """Return the size of a layer that a set of sources has as a member such as `=1234`, and the other members."""
    for member in members:
        if member[:1] == b"=":
            sizes = [found for each in members if each[:1] == b"=" and (found := number(each[1:])) is not None]
            return (sizes[0] if sizes else None), tuple([each for each in members if each[:1] != b"="])
    return None, members


def denied_repositories(members: Any, seconds_left: Any, registry: str) -> frozenset[Repository]:
    """Parse a set of denials; one that would live for longer than ours is not ours."""
    if type(seconds_left) is not int or not 0 <= seconds_left <= DENIAL_SECONDS:
        return frozenset()
    return frozenset(repositories(members, registry))


def repository_names(members: Any, registry: str) -> list[str]:
    """Return the names of the repositories on `registry` that a set's members name, in order."""
    names = {_name(member, registry) for member in texts(members)}
    return sorted(name for name in names if name is not None)


def as_map(reply: Any) -> Mapping[bytes, bytes]:
    """Return a hash's fields from a map, or a list of alternating fields and values; else an empty map."""
    if isinstance(reply, list):
        items = iter(reply)
        pairs: Iterable[tuple[Any, Any]] = zip(items, items, strict=False)
    elif isinstance(reply, dict):
        pairs = reply.items()
    else:
        return {}
    return {field: value for field, value in pairs if type(field) is bytes is type(value)}


def truth(reply: Any) -> bool:
    """Parse a yes or no, which is a number or a boolean."""
    return type(reply) in {int, bool} and reply != 0


def is_set(since: Any) -> bool:
    """Return whether a must-mount flag is set: its field `since` is a time (epoch seconds)."""
    return type(since) is bytes and (number(since) or 0) > 0


def traits_of(values: Any, seconds_left: Any) -> RegistryTraits:
    """Parse the traits of a registry, in the order of `TRAITS`; those that would live for longer are not ours."""
    if not isinstance(values, list) or type(seconds_left) is not int or not 0 <= seconds_left <= TRAITS_SECONDS:
        return RegistryTraits()
    known = (_TRUTH.get(value) if type(value) is bytes else None for value in values)
    return RegistryTraits(**dict(zip(TRAITS, known, strict=False)))


def traits_fields(traits: RegistryTraits) -> Iterable[str]:
    """Return the traits of a registry as alternating fields and values."""
    for name in TRAITS:
        value = getattr(traits, name)
        if value is not None:
            yield from (name, "1" if value else "0")


def number(value: bytes | None) -> int | None:
    """Parse a number of at most 63 bits."""
    if value is None or not value.isdigit() or len(value) > _NUMBER_DIGITS:
        return None
    read = int(value)
    return read if read <= _NUMBER_MAX else None


@lru_cache(maxsize=_NAMES_MAX)
def _name(member: bytes, registry: str) -> str | None:
    """Return the repository that a set's member names; None if it names none. Look-ups repeat them."""
    name = member.decode("ascii", "replace")
    if not is_repository_name(name) or (registry == DOCKER_HUB and "/" not in name):
        return None
    return name


def registry_name(text: Any) -> str | None:
    """Return the normalised name of a registry that a reply has; None if it has none."""
    return registry_of(text.decode("ascii", "replace")) if isinstance(text, bytes) else None


def registry_of(text: str) -> str | None:
    """Return the registry that a text is the normalised name of; None if it is none."""
    try:
        return text if normalise_registry(text) == text else None
    except InvalidReferenceError:
        return None
