"""What an index server answered, as values. All of it is untrusted: what breaks a grammar is ignored."""

from collections.abc import Iterable, Mapping
from typing import Any

from crossmount.errors import InvalidReferenceError
from crossmount.index.protocol import LayerKnowledge, RegistryTraits
from crossmount.oci import Repository
from crossmount.oci.reference import DOCKER_HUB, is_repository_name, normalise_registry

TRAITS = ("mounts", "finds", "after_manifest")
REGISTRIES_MAX = 128
"""How many registries of one layer are looked at."""

_NUMBER_MAX = 2**63 - 1
_NUMBER_DIGITS = len(str(_NUMBER_MAX))
_TRUTH = {b"1": True, b"0": False}


def registry_field(registry: str) -> str:
    """Name a registry's field in a layer's flags: its value says when its sources run out (epoch seconds)."""
    return f"@{registry}"


class Decoder:
    """Reads the answers to one look-up. Layers share repositories and registries, so each is checked once.

    Args:
        dest: for whom they are read.
        now: epoch seconds; registries whose sources ran out by then are left out.
    """

    def __init__(self, dest: Repository, now: float) -> None:
        self._dest = dest
        self._own = registry_field(dest.registry).encode()
        self._now = now
        self._holders: dict[tuple[bytes, ...], tuple[tuple[Repository, ...], bool]] = {}
        self._registries: dict[bytes, str | None] = {}

    def layer(self, members: Any, flags: Any) -> LayerKnowledge:
        """Read a layer's set of sources on dest's registry, and its flags."""
        key = _texts(members)
        if key not in self._holders:
            self._holders[key] = self._read_holders(key)
        sources, in_dest = self._holders[key]
        fields = as_map(flags)
        size = fields.get(b"size")
        if size is not None and len(fields) == 2 and self._own in fields:  # most layers are on one registry only
            return LayerKnowledge(sources, in_dest, size=number(size))
        live = live_registries(fields, self._now, self._registries)
        return LayerKnowledge(
            sources,
            in_dest,
            tuple([registry for registry in live if registry != self._dest.registry]),
            b"must_mount" in fields,
            number(size),
        )

    def _read_holders(self, members: tuple[bytes, ...]) -> tuple[tuple[Repository, ...], bool]:
        """Return dest's siblings among a set's members, in order, and whether dest is one of the members."""
        names = {_name(member, self._dest.registry) for member in members} - {None}
        others = sorted(name for name in names if name is not None and name != self._dest.name)
        return tuple([self._dest.sibling(name) for name in others]), self._dest.name in names


def live_registries(fields: Mapping[bytes, bytes], now: float, checked: dict[bytes, str | None]) -> list[str]:
    """Return the registries whose sources have not run out, in order.

    Args:
        fields: a layer's flags.
        now: epoch seconds.
        checked: what the fields looked at so far name; None where it is no registry.
    """
    found = []
    for field, value in fields.items():
        if field.startswith(b"@") and (number(value) or 0) > now:
            if field not in checked:
                checked[field] = _registry(field[1:])
            registry = checked[field]
            if registry is not None:
                found.append(registry)
    found.sort()
    return found[:REGISTRIES_MAX]


def repositories(members: Any, registry: str) -> list[Repository]:
    """Return the repositories on `registry` that a set's members name, in order."""
    return [Repository(registry, name) for name in repository_names(members, registry)]


def repository_names(members: Any, registry: str) -> list[str]:
    """Return the names of the repositories on `registry` that a set's members name, in order."""
    names = {_name(member, registry) for member in _texts(members)}
    return sorted(name for name in names if name is not None)


def as_map(reply: Any) -> Mapping[bytes, bytes]:
    """Return a hash's fields, which come as a map or as fields and values in turn; none for anything else."""
    if isinstance(reply, list):
        items = iter(reply)
        pairs: Iterable[tuple[Any, Any]] = zip(items, items, strict=False)
    elif isinstance(reply, dict):
        pairs = reply.items()
    else:
        return {}
    return {field: value for field, value in pairs if type(field) is bytes is type(value)}


def truth(reply: Any) -> bool:
    """Read whether something is there, which comes as a number or as a truth value."""
    return type(reply) in {int, bool} and reply != 0


def traits_of(reply: Any) -> RegistryTraits:
    """Read what a registry was seen to do."""
    fields = as_map(reply)
    return RegistryTraits(**{name: _TRUTH.get(fields.get(name.encode(), b"")) for name in TRAITS})


def traits_fields(traits: RegistryTraits) -> Iterable[str]:
    """Write what a registry was seen to do, as fields and values."""
    for name in TRAITS:
        value = getattr(traits, name)
        if value is not None:
            yield from (name, "1" if value else "0")


def number(value: bytes | None) -> int | None:
    """Read a number of at most 63 bits."""
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


def _registry(field: bytes) -> str | None:
    text = field.decode("ascii", "replace")
    try:
        return text if normalise_registry(text) == text else None
    except InvalidReferenceError:
        return None
