"""Replies of the index's server, parsed into values. They are untrusted: invalid parts are ignored."""

from collections.abc import Iterable, Mapping
from typing import Any

from crossmount.errors import InvalidReferenceError
from crossmount.index.aliases import RegistryNames
from crossmount.index.exclusions import DENIAL_SECONDS
from crossmount.index.protocol import LayerKnowledge, RegistryTraits
from crossmount.oci import Repository
from crossmount.oci.reference import DOCKER_HUB, is_repository_name, normalise_registry

TRAITS = ("mounts", "finds", "after_manifest", "truthful")
REGISTRIES_MAX = 128
"""The most registries of one layer that are read."""

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
        self._own = registry_field(self._canonical).encode()
        self._now = now
        self._holders: dict[tuple[bytes, ...], tuple[tuple[Repository, ...], bool]] = {}
        self._registries: dict[bytes, str | None] = {}

    def layer(self, members: Any, flags: Any) -> LayerKnowledge:
        """Return the entry of a layer from the members of its sets on dest's registry, and its flags."""
        key = _texts(members)
        if key not in self._holders:
            self._holders[key] = self._read_holders(key)
        sources, in_dest = self._holders[key]
        fields = as_map(flags)
        size = fields.get(b"size")
        if size is not None and len(fields) == 2 and self._own in fields:  # most layers are on one registry only
            return LayerKnowledge(sources, in_dest, size=number(size))
        live = {self._names.canonical(name) for name in live_registries(fields, self._now, self._registries)}
        return LayerKnowledge(
            sources,
            in_dest,
            tuple(sorted(live - {self._canonical})),
            b"must_mount" in fields,
            number(size),
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
                checked[field] = registry_of(field[1:].decode("ascii", "replace"))
            registry = checked[field]
            if registry is not None:
                found.append(registry)
    found.sort()
    return found[:REGISTRIES_MAX]


def repositories(members: Any, registry: str) -> list[Repository]:
    """Return the repositories on `registry` that a set's members name, in order."""
    return [Repository(registry, name) for name in repository_names(members, registry)]


def denied_repositories(members: Any, seconds_left: Any, registry: str) -> frozenset[Repository]:
    """Parse a set of denials; one that would live for longer than ours is not ours."""
    if type(seconds_left) is not int or not 0 <= seconds_left <= DENIAL_SECONDS:
        return frozenset()
    return frozenset(repositories(members, registry))


def repository_names(members: Any, registry: str) -> list[str]:
    """Return the names of the repositories on `registry` that a set's members name, in order."""
    names = {_name(member, registry) for member in _texts(members)}
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


def traits_of(reply: Any) -> RegistryTraits:
    """Parse the traits of a registry."""
    fields = as_map(reply)
    return RegistryTraits(**{name: _TRUTH.get(fields.get(name.encode(), b"")) for name in TRAITS})


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


def _texts(members: Any) -> tuple[bytes, ...]:
    return tuple([member for member in members if type(member) is bytes]) if isinstance(members, list) else ()


def _name(member: bytes, registry: str) -> str | None:
    name = member.decode("ascii", "replace")
    if not is_repository_name(name) or (registry == DOCKER_HUB and "/" not in name):
        return None
    return name


def registry_of(text: str) -> str | None:
    """Return the registry that a text is the normalised name of; None if it is none."""
    try:
        return text if normalise_registry(text) == text else None
    except InvalidReferenceError:
        return None
