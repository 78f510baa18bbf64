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
    """Reads the answers to one call. Layers share repositories and registries, so each is checked once.

    Args:
        now: epoch seconds; registries whose sources ran out by then are left out.
    """

    def __init__(self, now: float) -> None:
        self._now = now
        self._names: dict[tuple[str, bytes], str | None] = {}
        self._registries: dict[bytes, str | None] = {}

    def layer(self, members: Any, flags: Any, dest: Repository) -> LayerKnowledge:
        """Read a layer's set of sources on dest's registry, and its flags."""
        names = self.names(members, dest.registry)
        fields = as_map(flags)
        return LayerKnowledge(
            tuple([dest.sibling(name) for name in names if name != dest.name]),
            dest.name in names,
            tuple([registry for registry in self.registries(fields) if registry != dest.registry]),
            b"must_mount" in fields,
            number(fields.get(b"size")),
        )

    def names(self, members: Any, registry: str) -> list[str]:
        """Return the repository names among a set's members, in order."""
        known, found = self._names, []
        for member in members if isinstance(members, list) else ():
            key = registry, member
            if key not in known:
                known[key] = _name(member, registry)
            name = known[key]
            if name is not None:
                found.append(name)
        found.sort()
        return found

    def registries(self, fields: Mapping[bytes, bytes]) -> list[str]:
        """Return the registries whose sources have not run out, in order."""
        known, found = self._registries, []
        for field, value in fields.items():
            if field[:1] == b"@" and (number(value) or 0) > self._now:
                if field not in known:
                    known[field] = _registry(field[1:])
                registry = known[field]
                if registry is not None:
                    found.append(registry)
        found.sort()
        return found[:REGISTRIES_MAX]


def as_map(reply: Any) -> Mapping[bytes, bytes]:
    """Return a hash's fields; none for anything that is no hash."""
    return reply if isinstance(reply, dict) else {}


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


def _name(member: bytes, registry: str) -> str | None:
    text = member.decode("ascii", "replace")
    if not is_repository_name(text) or (registry == DOCKER_HUB and "/" not in text):
        return None
    return text


def _registry(field: bytes) -> str | None:
    text = field.decode("ascii", "replace")
    try:
        return text if normalise_registry(text) == text else None
    except InvalidReferenceError:
        return None
