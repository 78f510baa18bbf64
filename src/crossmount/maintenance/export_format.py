"""The format of an exported index: lines of JSON, a header, then one line per layer. Pure; input is untrusted."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from crossmount._dataclass import dataclass
from crossmount._parsing import json_object, one_line
from crossmount.errors import InvalidDigestError, InvalidInputError, InvalidReferenceError
from crossmount.index.protocol import LIFE_MAX, LayerEntry, RegistrySources
from crossmount.oci import Digest, Repository

VERSION = 1
LINE_MAX = 1024 * 1024
"""The longest line, in bytes."""

NAMES_MAX = 2048
"""The largest number of sources in one line; a layer with more of them has several lines."""

_SIZE_MAX = 2**63 - 1
_FIELDS = frozenset({"layer", "size", "must_mount", "sources", "expires_in"})


class InvalidLineError(InvalidInputError):
    """A line breaks the format."""


@dataclass(frozen=True, slots=True)
class ExportHeader:
    """The first line: the format's name and version, and the namespace that was exported."""

    namespace: str | None = None

    def text(self) -> str:
        """Return it as a line of JSON."""
        return json.dumps({"crossmount": "index", "version": VERSION, "namespace": self.namespace})

    @classmethod
    def read(cls, line: bytes) -> "ExportHeader":
        """Parse it.

        Raises:
            InvalidLineError: it is not a header, or of another version.
        """
        document = json_object(line) or {}
        if document.get("crossmount") != "index":
            raise InvalidLineError("not an exported index: its first line is not a header")
        version = document.get("version")
        if version != VERSION or isinstance(version, bool):
            raise InvalidLineError(f"version {_shown(version)}: this crossmount reads version {VERSION}")
        namespace = document.get("namespace")
        return cls(namespace if isinstance(namespace, str) else None)


def layer_lines(entry: LayerEntry) -> Iterator[str]:
    """Yield the line of a layer, or several lines if it has very many sources."""
    some: dict[str, RegistrySources] = {}
    names = 0
    for registry, held in entry.registries.items():
        if some and names + len(held.names) > NAMES_MAX:
            yield _line(entry, some)
            some, names = {}, 0
        some[registry] = held
        names += len(held.names)
    yield _line(entry, some)


def _line(entry: LayerEntry, held: Mapping[str, RegistrySources]) -> str:
    return json.dumps(
        {
            "layer": entry.layer,
            "size": entry.size,
            "must_mount": entry.must_mount,
            "sources": {registry: list(each.names) for registry, each in held.items()},
            "expires_in": {registry: each.seconds_left for registry, each in held.items()},
        },
        separators=(",", ":"),
    )


def parse_layer(line: bytes, *, life: int) -> LayerEntry:
    """Parse a line of a layer, and check every part of it by its grammar.

    Args:
        line: the line.
        life: the time to live, in seconds, of sources without one.

    Raises:
        InvalidLineError: it breaks the format.
    """
    document = json_object(line)
    if document is None:
        raise InvalidLineError("not a JSON object" if line.strip() else "an empty line")
    unknown = sorted(document.keys() - _FIELDS)
    if unknown:
        raise InvalidLineError(f"unknown field {_shown(unknown[0])}")
    sources, lives = document.get("sources", {}), document.get("expires_in", {})
    if not isinstance(sources, dict) or not isinstance(lives, dict):
        raise InvalidLineError("sources and expires_in: give an object, with registries as names")
    try:
        layer = Digest(_text(document.get("layer"), "layer"))
        held = _held(sources, lives, life)
    except (InvalidDigestError, InvalidReferenceError) as error:
        raise InvalidLineError(one_line(str(error))) from None
    size, must_mount = document.get("size"), document.get("must_mount", False)
    if not isinstance(must_mount, bool):
        raise InvalidLineError(f"must_mount: {_shown(must_mount)}: give true or false")
    return LayerEntry(
        layer=layer,
        registries=held,
        size=None if size is None else _number(size, "size", least=0, most=_SIZE_MAX),
        must_mount=must_mount,
    )


def _held(sources: Mapping[str, Any], lives: Mapping[str, Any], life: int) -> dict[str, RegistrySources]:
    """Parse the sources of a layer; two spellings of one registry are merged."""
    if any(not isinstance(names, list) for names in sources.values()):
        raise InvalidLineError("sources: give a list of repositories for each registry")
    if sum(map(len, sources.values())) > NAMES_MAX:
        raise InvalidLineError(f"more than {NAMES_MAX} sources: give the layer more lines")
    if lives.keys() - sources.keys():
        raise InvalidLineError("expires_in: names a registry that sources does not name")
    held: dict[str, RegistrySources] = {}
    for registry, names in sources.items():
        left = _number(lives.get(registry, life), "expires_in", least=1, most=LIFE_MAX)
        for source in (Repository(registry, _text(name, "sources")) for name in names):
            known = held.get(source.registry, RegistrySources((), 0))
            held[source.registry] = RegistrySources((*known.names, source.name), max(known.seconds_left, left))
    return {
        registry: RegistrySources(tuple(sorted(set(each.names))), each.seconds_left)
        for registry, each in held.items()
    }


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise InvalidLineError(f"{name}: {_shown(value)}: give a string")
    return value


def _number(value: Any, name: str, *, least: int, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise InvalidLineError(f"{name}: {_shown(value)}: give a whole number from {least} to {most}")
    return value


def _shown(value: Any) -> str:
    """Return an untrusted value for a one-line message; a list or an object appears only as its type."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    return one_line(repr(value), limit=60)
