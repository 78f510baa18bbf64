"""The order in which sources are tried: pure functions, a total order, the same for every caller."""

import hashlib
import heapq
from collections.abc import Collection, Iterable, Mapping

from crossmount.oci import Digest, Repository

Ranked = Mapping[Digest, tuple[Repository, ...]]
"""The sources of each layer, best first."""


def rank(
    sources: Iterable[Repository], *, dest: Repository, proven: Collection[Repository] = ()
) -> list[Repository]:
    """Order `sources`: those first from which a mount most likely succeeds.

    1. Sources from which a mount succeeded just now.
    2. The longest leading path shared with `dest`: an account that can push to dest can most likely read them.
    3. A hash of (dest, source), so that different destinations use different sources.
    4. The name, which makes the order total.
    """
    return sorted(
        sources,
        key=lambda source: (source not in proven, -_shared_path(dest, source), _hash(dest, source), source.name),
    )


def plan(
    sources: Mapping[Digest, Iterable[Repository]],
    *,
    dest: Repository,
    proven: Collection[Repository] = (),
    few: bool = True,
) -> dict[Digest, tuple[Repository, ...]]:
    """Order the sources of all layers of an image. No source is left out.

    Args:
        sources: the known sources of each layer.
        dest: the destination repository.
        proven: sources from which a mount succeeded just now.
        few: whether the fewest repositories that cover all layers come first, because each needs a scope of a
            token.

    Returns:
        The candidates of each layer that has any, best first.
    """
    ranked = {layer: tuple(rank(known, dest=dest, proven=proven)) for layer, known in sources.items()}
    ranked = {layer: candidates for layer, candidates in ranked.items() if candidates}
    if not few:
        return ranked
    chosen = frozenset(cover(ranked, dest=dest, proven=proven))
    return {
        layer: tuple(sorted(candidates, key=lambda source: source not in chosen))  # stable: by rank among equals
        for layer, candidates in ranked.items()
    }


def cover(ranked: Ranked, *, dest: Repository, proven: Collection[Repository] = ()) -> tuple[Repository, ...]:
    """Choose few repositories so that each layer has a source among them.

    Proven ones come first. Then comes the one that the most layers still need (the greedy cover, which is at most
    ln(n) + 1 times as large as the smallest one), among equals the one of the best rank.
    """
    layers_of: dict[Repository, set[Digest]] = {}
    for layer, candidates in ranked.items():
        for source in candidates:
            layers_of.setdefault(source, set()).add(layer)
    order = {source: place for place, source in enumerate(rank(layers_of, dest=dest, proven=proven))}
    uncovered = {layer for layer, candidates in ranked.items() if candidates}
    heap = [(source not in proven, -len(layers), order[source], source) for source, layers in layers_of.items()]
    heapq.heapify(heap)
    chosen: list[Repository] = []
    while uncovered:
        unproven, counted, place, source = heapq.heappop(heap)
        count = len(layers_of[source] & uncovered)
        if count == -counted:
            chosen.append(source)
            uncovered -= layers_of[source]
        elif count:  # counts only fall, so the heap's are upper bounds
            heapq.heappush(heap, (unproven, -count, place, source))
    return tuple(chosen)


def spares(ranked: Ranked, *, dest: Repository, count: int) -> tuple[Repository, ...]:
    """Choose further sources for layers whose first ones failed: covers of what is left, one after the other.

    Args:
        ranked: the sources that are left, of each layer that needs one.
        dest: the destination repository.
        count: how many are enough.
    """
    chosen: dict[Repository, None] = {}
    left = dict(ranked)
    while left and len(chosen) < count:
        chosen.update(dict.fromkeys(cover(left, dest=dest)))
        remaining = {layer: tuple(s for s in candidates if s not in chosen) for layer, candidates in left.items()}
        left = {layer: candidates for layer, candidates in remaining.items() if candidates}
    return tuple(chosen)


def _shared_path(dest: Repository, source: Repository) -> int:
    shared = 0
    for ours, theirs in zip(dest.name.split("/"), source.name.split("/"), strict=False):
        if ours != theirs:
            break
        shared += 1
    return shared


def _hash(dest: Repository, source: Repository) -> bytes:
    return hashlib.blake2b(f"{dest.name}\n{source.name}".encode(), digest_size=8).digest()
