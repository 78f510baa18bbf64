"""The platforms of an index, and an index with some of them alone. Pure."""

import json
from collections.abc import Iterable, Sequence
from typing import Any, Self

from crossmount._dataclass import dataclass
from crossmount.errors import InvalidInputError
from crossmount.oci.manifest import Manifest

_ALIASES = {"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64", "i386": "386"}
_DEFAULT_VARIANTS = {"arm64": "v8", "arm": "v7"}
_SHOWN_MAX = 20


@dataclass(frozen=True, slots=True)
class Platform:
    """A platform, such as `linux/arm64/v8`.

    Attributes:
        variant: the CPU's variant; empty in a wish accepts any.
    """

    os: str
    architecture: str
    variant: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `OS/ARCHITECTURE[/VARIANT]`.

        Raises:
            InvalidInputError: it has fewer or more parts, or an empty one.
        """
        parts = text.lower().split("/")
        if len(parts) not in {2, 3} or not all(part and part.isprintable() and " " not in part for part in parts):
            raise InvalidInputError(
                f"not a platform: {text[:100]!r}: give OS/ARCHITECTURE, such as linux/arm64/v8"
            )
        system, architecture, *variant = parts
        return cls(system, _ALIASES.get(architecture, architecture), *variant)

    @classmethod
    def from_json(cls, document: object) -> Self | None:
        """Return the platform that an index's entry or an image's config has; None if it has none."""
        if not isinstance(document, dict):
            return None
        system, architecture, variant = (document.get(key) for key in ("os", "architecture", "variant"))
        if not (isinstance(system, str) and isinstance(architecture, str) and system and architecture):
            return None
        architecture = architecture.lower()
        return cls(
            system.lower()[:50],
            _ALIASES.get(architecture, architecture)[:50],
            variant.lower()[:50] if isinstance(variant, str) else "",
        )

    def accepts(self, other: "Platform | None") -> bool:
        """Return whether an image of the platform `other` satisfies a request for this one."""
        if other is None or (other.os, other.architecture) != (self.os, self.architecture):
            return False
        default = _DEFAULT_VARIANTS.get(self.architecture, "")
        return not self.variant or self.variant == (other.variant or default)

    def __str__(self) -> str:
        return "/".join(filter(None, (self.os, self.architecture, self.variant)))


def parse_all(texts: Iterable[str | Platform]) -> tuple[Platform, ...]:
    """Parse platforms.

    Raises:
        InvalidInputError: one breaks the grammar.
    """
    return tuple(text if isinstance(text, Platform) else Platform.parse(text) for text in texts)


def select(index: Manifest, wanted: Sequence[Platform], *, where: str) -> tuple[Manifest, tuple[str, ...]]:
    """Return a new index with the children of some platforms, and the names of those.

    If all children are wanted it is the same index, and no name is returned.

    Args:
        index: an image index, or a manifest list.
        wanted: the platforms.
        where: its name in errors.

    Raises:
        InvalidInputError: it has no child of one of the platforms.
    """
    document: dict[str, Any] = json.loads(index.content)
    found = [Platform.from_json(entry.get("platform")) for entry in document["manifests"]]
    names = tuple(dict.fromkeys(str(one) for one in found if one is not None))
    for one in wanted:
        if not any(one.accepts(platform) for platform in found):
            has = ", ".join(names[:_SHOWN_MAX]) or "none at all"
            raise InvalidInputError(f"{where}: it has no platform {one}, it has {has}")
    keep = [any(one.accepts(platform) for one in wanted) for platform in found]
    if all(keep):
        return index, ()
    document["manifests"] = [entry for entry, kept in zip(document["manifests"], keep, strict=True) if kept]
    content = json.dumps(document, separators=(",", ":")).encode()
    kept_names = dict.fromkeys(str(one) for one, kept in zip(found, keep, strict=True) if kept)
    return Manifest.parse(content, media_type=index.descriptor.media_type, where=where), tuple(kept_names)


def check_config(config: bytes, wanted: Sequence[Platform], *, where: str) -> None:
    """Check that an image without an index is of the only platform that is wanted.

    Args:
        config: the image's config.
        wanted: the platforms.
        where: the image's name in errors.

    Raises:
        InvalidInputError: it is of another platform, or says none.
    """
    try:
        platform = Platform.from_json(json.loads(config))
    except (ValueError, RecursionError):
        platform = None
    for one in wanted:
        if not one.accepts(platform):
            has = "says no platform" if platform is None else f"is of {platform} alone"
            raise InvalidInputError(f"{where}: it has no platform {one}: this image {has}")
