"""The order in which sources are tried: pure functions, a total order, the same for every caller."""

import hashlib
from collections.abc import Iterable, Mapping

from crossmount.oci import Digest, Repository

SOURCES_PER_TOKEN = 16
"""The most sources that one token covers: its request is a URL, which must not get too long."""

_SMALL, _LARGE = 128 * 1024, 8 * 1024 * 1024


def attempts_for(size: int | None) -> int:
    """Return how many sources to try, one round trip each, for a layer of `size` bytes (None: unknown)."""
    if size is None:
        return 3
    if size < _SMALL:
        return 1
    return 3 if size < _LARGE else 5


def rank(sources: Iterable[Repository], *, dest: Repository) -> list[Repository]:
    """Order `sources`: those first from which a mount most likely succeeds.

    1. The longest leading path shared with `dest`: an account that can push to dest can most likely read them.
    2. A hash of (dest, source), so that different destinations use different sources.
    3. The name, which makes the order total.
    """
    return sorted(sources, key=lambda source: (-_shared_path(dest, source), _hash(dest, source), source.name))


def plan(
    sources: Mapping[Digest, Iterable[Repository]],
    sizes: Mapping[Digest, int | None],
    *,
    dest: Repository,
    repositories: int = SOURCES_PER_TOKEN,
) -> dict[Digest, tuple[Repository, ...]]:
    """Choose the candidates of all layers of an image so that one token covers them.

    Args:
        sources: the known sources of each layer.
        sizes: each layer's size in bytes, if known.
        dest: the destination repository.
        repositories: the most different sources of the whole image.

    Returns:
        The candidates of each layer that has any, best first. A layer's best is chosen before any layer's second.
    """
    ranked = {layer: rank(known, dest=dest)[: attempts_for(sizes.get(layer))] for layer, known in sources.items()}
    allowed: set[Repository] = set()
    for position in range(max((len(candidates) for candidates in ranked.values()), default=0)):
        for candidates in ranked.values():
            if position < len(candidates) and len(allowed) < repositories:
                allowed.add(candidates[position])
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
