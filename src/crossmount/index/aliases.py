"""Registries under several names: one registry to the index where a user says so.

Names are exchanged in the index's keys and answers alone. A request, and with it a credential, always goes to the
name that the user gave for it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import field
from itertools import islice
from typing import Protocol, runtime_checkable

from crossmount._dataclass import dataclass
from crossmount.errors import InvalidInputError, InvalidReferenceError
from crossmount.oci.reference import normalise_registry

SHARED_MAX = 128
"""The most pairs of names that are read from an index."""

NAMES_MAX = 8
"""The most names of one registry that are looked up."""

SHARED_SECONDS = 60.0
"""How long the pairs that were read from an index are used before they are read again."""


def _groups_of(pairs: Iterable[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    """Return the names of each registry that has several, by each of its names."""
    groups: dict[str, set[str]] = {}
    left: set[str] = set()
    for name, other in pairs:
        joined = groups.get(name, {name}) | groups.get(other, {other})
        groups |= dict.fromkeys(joined, joined)
        if name != other:
            left.add(name)
    return {name: _ordered(group, left) for name, group in groups.items() if len(group) > 1}


def _ordered(group: set[str], left: set[str]) -> tuple[str, ...]:
    canonical = min(group - left or group)
    return (canonical, *sorted(group - {canonical}))[:NAMES_MAX]


@dataclass(frozen=True, slots=True)
class SameRegistries:
    """Pairs of names that are one registry; `A=B` means that the index keeps what it knows of A under B.

    Pairs combine, in any order: all names that pairs connect are one registry. The index uses the name
    that is never on the left of a pair; where several or none are, the first of them in alphabetical order. That
    name is the canonical one. `A=A`
    means that A is one registry under one name, whatever the shared pairs say.

    Attributes:
        pairs: names by their other name, normalised and in order.
    """

    pairs: tuple[tuple[str, str], ...] = ()
    _groups: Mapping[str, tuple[str, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Group the names."""
        object.__setattr__(self, "_groups", _groups_of(self.pairs))

    @classmethod
    def parse(cls, texts: Iterable[str]) -> "SameRegistries":
        """Parse texts such as `localhost:5000=registry:5000`; commas separate several pairs in one text.

        Raises:
            InvalidInputError: a text is not a pair of names of registries.
        """
        if isinstance(texts, str):
            texts = [texts]
        pairs = [part.strip() for text in texts for part in text.split(",")]
        return cls(tuple(dict.fromkeys(map(parse_pair, filter(None, pairs)))))

    @classmethod
    def from_fields(cls, fields: Mapping[bytes, bytes]) -> "SameRegistries":
        """Parse the fields of an index's hash. They are untrusted: an invalid name is ignored."""
        pairs = ((_normal(name), _normal(other)) for name, other in sorted(fields.items()))
        good = ((name, other) for name, other in pairs if name and other and name != other)
        return cls(tuple(islice(good, SHARED_MAX)))

    def over(self, shared: "SameRegistries") -> "SameRegistries":
        """Return these pairs, and those of `shared` that do not contradict them."""
        mine = {name for name, _ in self.pairs}
        return SameRegistries(
            (
                *self.pairs,
                *(
                    (name, other)
                    for name, other in shared.pairs
                    if name not in mine and (other, other) not in self.pairs and other not in self.names(name)
                ),
            )
        )

    def canonical(self, registry: str) -> str:
        """Return the one of a registry's names that the index uses."""
        return self.names(registry)[0]

    def names(self, registry: str) -> tuple[str, ...]:
        """Return the names of a registry: first the canonical one, then the others in order."""
        return self._groups.get(registry) or (registry,)


NONE_THE_SAME = SameRegistries()


class RegistryNames:
    """The names of registries as an index uses them: the user's own pairs, over those that the index shares.

    Args:
        own: the user's own pairs.
    """

    def __init__(self, own: SameRegistries = NONE_THE_SAME) -> None:
        self._own = own
        self._shared = NONE_THE_SAME
        self._all = own
        self._read_at: float | None = None

    def canonical(self, registry: str) -> str:
        """Return the one of a registry's names that the index uses."""
        return self._all.canonical(registry)

    def of(self, registry: str) -> tuple[str, ...]:
        """Return the names of a registry: first the canonical one."""
        return self._all.names(registry)

    @property
    def is_unread(self) -> bool:
        """Whether the shared pairs have never been read."""
        return self._read_at is None

    def is_due(self, now: float) -> bool:
        """Return whether the shared pairs should be read again."""
        return self._read_at is None or abs(now - self._read_at) >= SHARED_SECONDS

    def learn(self, fields: Mapping[bytes, bytes], now: float) -> None:
        """Replace the shared pairs by those that were read at `now`."""
        self._read_at = now
        shared = SameRegistries.from_fields(fields)
        if shared != self._shared:
            self._shared, self._all = shared, self._own.over(shared)


@runtime_checkable
class HasRegistryNames(Protocol):
    """An index whose registries may have several names."""

    def registry_names(self) -> RegistryNames:
        """Return the names."""
        ...


def registry_names_of(index: object) -> RegistryNames:
    """Return the names of registries that an index uses; of an index without any, every name is a registry."""
    return index.registry_names() if isinstance(index, HasRegistryNames) else RegistryNames()


def parse_pair(text: str) -> tuple[str, str]:
    """Parse `A=B`.

    Raises:
        InvalidInputError: it is not a pair of names of registries.
    """
    name, equals, other = (part.strip() for part in text.partition("="))
    if not (name and equals and other):
        raise InvalidInputError(f"not a pair of registries: {text[:200]!r}: give A=B, two names of one registry")
    return normalise_registry(name), normalise_registry(other)


def _normal(name: bytes) -> str | None:
    text = name.decode("ascii", "replace")
    try:
        return text if normalise_registry(text) == text else None
    except InvalidReferenceError:
        return None
