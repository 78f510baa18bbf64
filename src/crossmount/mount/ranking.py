"""Which sources to try, in which order: pure, total, and the same for whoever asks."""

import hashlib
from collections.abc import Collection, Iterable, Mapping

from crossmount.oci import Digest, Repository

SOURCES_PER_TOKEN = 16
"""How many repositories one token may be asked for besides dest: its request must stay a sane URL."""

_SMALL, _LARGE = 128 * 1024, 8 * 1024 * 1024


def attempts_for(size: int | None) -> int:
    """Return how many sources are worth a round trip each for a layer of `size` bytes (None: not known)."""
    if size is None:
        return 3
    if size < _SMALL:
        return 1
    return 3 if size < _LARGE else 5


def rank(sources: Iterable[Repository], *, dest: Repository) -> list[Repository]:
    """Order `sources` by how likely a mount from them succeeds and how evenly it spreads the asking.

    First those that share the longest leading path with `dest`: whoever may push there can most likely read
    them. Among equals a hash of (dest, source) decides, so that one repository isn't hit by all; the name is
    the last key, which makes the order total.
    """
    return sorted(sources, key=lambda source: (-_shared_path(dest, source), _hash(dest, source), source.name))


def plan(
    sources: Mapping[Digest, Iterable[Repository]],
    sizes: Mapping[Digest, int | None],
    *,
    dest: Repository,
    avoid: Collection[Repository] = (),
    repositories: int = SOURCES_PER_TOKEN,
) -> dict[Digest, tuple[Repository, ...]]:
    """Choose the candidates of all layers of an image so that one token covers them.

    Args:
        sources: the known sources of each layer.
        sizes: each layer's size in bytes, if known.
        dest: where the image goes.
        avoid: sources that are known not to be readable.
        repositories: how many different ones may be named in all.

    Returns:
        The candidates of each layer that has any, best first. A layer's best is chosen before any layer's second.
    """
    ranked = {
        layer: rank((s for s in known if s not in avoid), dest=dest)[: attempts_for(sizes.get(layer))]
        for layer, known in sources.items()
    }
    allowed: set[Repository] = set()
    for place in range(max((len(candidates) for candidates in ranked.values()), default=0)):
        for candidates in ranked.values():
            if place < len(candidates) and len(allowed) < repositories:
                allowed.add(candidates[place])
    chosen = {layer: tuple(s for s in candidates if s in allowed) for layer, candidates in ranked.items()}
    return {layer: candidates for layer, candidates in chosen.items() if candidates}


def _shared_path(dest: Repository, source: Repository) -> int:
    shared = 0
    for ours, theirs in zip(dest.name.split("/"), source.name.split("/"), strict=False):
        if ours != theirs:
            break
        shared += 1
    return shared


def _hash(dest: Repository, source: Repository) -> bytes:
    return hashlib.blake2b(f"{dest.name}\n{source.name}".encode(), digest_size=8).digest()
