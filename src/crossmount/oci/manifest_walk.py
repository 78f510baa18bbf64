"""Which manifests of an image are read next, in which order they are pushed, and how many there may be. Pure.

A caller reads manifests from a layout, a registry or a cache, and asks a `ManifestWalk` which ones to read.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NoReturn

from crossmount.oci.digest import Digest
from crossmount.oci.manifest import Manifest

INDEX_DEPTH_MAX = 4
"""How deep indexes may nest; real ones nest once or twice."""

_TOO_DEEP = f"an index in more than {INDEX_DEPTH_MAX} others"


@dataclass(slots=True, kw_only=True)
class ManifestWalk:
    """A walk from some manifests down to everything that indexes name, level by level.

    Call `next_level`, read those manifests, call `add` for each of them, and repeat until a level is empty.

    Attributes:
        limit: how many manifests the walk may read; None is any number.
        exceeded: receives the reason and one manifest when there are more, or when indexes nest too deep. It may
            raise. If it returns, the walk leaves out what is beyond the limit.
        seen: the manifests that were added; the walk asks for none of them.
    """

    limit: int | None
    exceeded: Callable[[str, Digest], None]
    seen: set[Digest] = field(default_factory=set)
    _next: dict[Digest, int] = field(default_factory=dict, init=False)
    _depths: dict[Digest, int] = field(default_factory=dict, init=False)
    _count: int = field(default=0, init=False)

    def want(self, digests: Iterable[Digest], *, depth: int = 0) -> None:
        """Add manifests, which lie below `depth` indexes, to the next level."""
        for digest in digests:
            if self.limit is None or len(self._next) <= self.limit:  # one more shows that there are too many
                self._next.setdefault(digest, depth)

    def add(self, digest: Digest, children: Iterable[Digest]) -> bool:
        """Note that a manifest was read, and which ones it names; return False if it was added before."""
        if digest in self.seen:
            return False
        self.seen.add(digest)
        self._count += digest not in self._depths  # a tag's manifest: no level had it
        self.want(children, depth=self._depths.get(digest, 0) + 1)
        return True

    def next_level(self) -> list[Digest]:
        """Return the manifests to read next, each once; none when the walk has ended."""
        level = [digest for digest in self._next if digest not in self.seen]
        deep = [digest for digest in level if self._next[digest] > INDEX_DEPTH_MAX]
        if deep:
            self.exceeded(_TOO_DEEP, deep[0])
            level = [digest for digest in level if self._next[digest] <= INDEX_DEPTH_MAX]
        if self.limit is not None and self._count + len(level) > self.limit:
            room = max(self.limit - self._count, 0)
            self.exceeded(f"more than {self.limit} manifests", level[room])
            level = level[:room]
        self._count += len(level)
        self._depths, self._next = {digest: self._next[digest] for digest in level}, {}
        return level


def children_first(
    root: Digest, manifests: Mapping[Digest, Manifest], *, exceeded: Callable[[str, Digest], NoReturn]
) -> tuple[Manifest, ...]:
    """Return every manifest of an image once, children before the indexes that name them; the root is the last.

    Args:
        root: the image's own manifest or index.
        manifests: the root and all manifests below it.
        exceeded: raises the error when a manifest is nested too deep. The longest way down counts, which a walk by
            levels does not see: one index may name every member of a chain of indexes.
    """
    ordered: dict[Digest, Manifest] = {}
    heights: dict[Digest, int] = {}

    def enter(digest: Digest, depth: int) -> int:
        """Enter a manifest after its children; return how many levels lie below it."""
        if depth + heights.get(digest, 0) > INDEX_DEPTH_MAX:
            exceeded(_TOO_DEEP, digest)
        if digest not in ordered:
            manifest = manifests[digest]
            heights[digest] = max([enter(child.digest, depth + 1) + 1 for child in manifest.children], default=0)
            ordered[digest] = manifest
        return heights[digest]

    enter(root, 0)
    return tuple(ordered.values())
