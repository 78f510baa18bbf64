"""From tags and digests to manifests, indexes' children included, handed over one by one as they come.

What is no image that can be followed, and what is gone by the time it is asked for, is left out and counted:
registries hold much else, and an index may name platforms that were never pushed.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

from crossmount.discovery.manifest_cache import ManifestCache
from crossmount.discovery.manifest_summary import ManifestSummary
from crossmount.errors import InvalidAnswerError, RegistryRefusedError
from crossmount.oci import Digest, Reference, Repository
from crossmount.oci.manifest import INDEX_DEPTH_MAX
from crossmount.registry import RegistryClient
from crossmount.transfer.concurrency import run_all

MANIFESTS_MAX = 4096
"""How many manifests one walk follows, whatever indexes name."""

_WORDS_MAX = 20

Take = Callable[[ManifestSummary], Awaitable[None]]


@dataclass(slots=True)
class WalkResult:
    """What walks came to.

    Attributes:
        fetched: manifests that the registry sent.
        known: manifests that were remembered, and not asked for.
        skipped: manifests and tags that were left out.
        reasons: why, for the first few.
    """

    fetched: int = 0
    known: int = 0
    skipped: int = 0
    reasons: list[str] = field(default_factory=list)

    def skip(self, reason: str) -> None:
        """Count one that is left out."""
        self.skipped += 1
        if len(self.reasons) < _WORDS_MAX:
            self.reasons.append(reason)

    def add(self, other: "WalkResult") -> None:
        """Add what another walk came to."""
        self.fetched += other.fetched
        self.known += other.known
        self.skipped += other.skipped
        self.reasons.extend(other.reasons[: _WORDS_MAX - len(self.reasons)])


class ManifestWalker:
    """Walks on one registry.

    Args:
        client: the registry's.
        memory: spares fetching what it remembers; None fetches everything, a tag with one request.
        gate: how many manifests are on their way at once.
    """

    def __init__(self, client: RegistryClient, memory: ManifestCache | None, *, gate: asyncio.Semaphore) -> None:
        self._client = client
        self._memory = memory
        self._gate = gate

    async def walk(
        self, repository: Repository, targets: Iterable[str], take: Take, *, seen: set[Digest] | None = None
    ) -> WalkResult:
        """Follow tags and digests of a repository, and all that hangs on them.

        Args:
            repository: where they are.
            targets: each a tag, or a `Digest`.
            take: is given each manifest once, children after their index.
            seen: manifests that were taken before and are passed over; those taken now are added.

        Raises:
            RegistryError: the registry did not answer, or not as hoped, to more than one manifest's question.
        """
        walk = _Walk(repository, take, set() if seen is None else seen)
        wanted = dict.fromkeys(targets)
        tags = [target for target in wanted if not isinstance(target, Digest)]
        level = [target for target in wanted if isinstance(target, Digest)]
        if self._memory is not None:
            digests = await self._resolve(walk, tags)
            tags, level = [], [*level, *digests]
        budget = MANIFESTS_MAX
        for _ in range(INDEX_DEPTH_MAX + 1):
            level = [digest for digest in dict.fromkeys(level) if digest not in walk.seen]
            if len(level) > budget:
                walk.result.skip(f"{repository}: more than {MANIFESTS_MAX} manifests hang together")
            level = level[:budget]
            budget -= len(level)
            remembered = {} if self._memory is None or not level else await self._memory.recall(level)
            for outline in remembered.values():
                walk.result.known += 1
                await walk.hand_over(outline)
            rest: list[str] = [*tags, *(digest for digest in level if digest not in remembered)]
            await run_all([partial(self._fetch, walk, target) for target in rest])
            tags, level = [], walk.next_level()
            if not level:
                return walk.result
        walk.result.skip(f"{repository}: indexes in more than {INDEX_DEPTH_MAX} others")
        return walk.result

    async def _resolve(self, walk: "_Walk", tags: list[str]) -> list[Digest]:
        """Ask what tags stand for, without fetching it."""
        digests: list[Digest] = []

        async def ask(tag: str) -> None:
            reference = Reference(walk.repository, tag=tag)
            async with self._gate:
                try:
                    found = await self._client.head_manifest(reference)
                except InvalidAnswerError as error:
                    walk.result.skip(str(error))
                    return
            if found is None:
                walk.result.skip(f"{reference}: not there any more")
            elif not (found.is_index or found.is_manifest):
                walk.result.skip(f"{reference}: of type {found.media_type[:200]!r}")
            else:
                digests.append(found.digest)

        await run_all([partial(ask, tag) for tag in tags])
        return digests

    async def _fetch(self, walk: "_Walk", target: str) -> None:
        reference = (
            Reference(walk.repository, digest=target)
            if isinstance(target, Digest)
            else Reference(walk.repository, tag=target)
        )
        async with self._gate:  # until it is taken: what is not must not pile up
            try:
                outline = ManifestSummary.of(await self._client.get_manifest(reference))
            except InvalidAnswerError as error:
                walk.result.skip(str(error))
                return
            except RegistryRefusedError as error:
                if error.status != 404:
                    raise
                walk.result.skip(f"{reference}: not there")
                return
            walk.result.fetched += 1
            await walk.hand_over(outline)


@dataclass(slots=True)
class _Walk:
    """One walk under way."""

    repository: Repository
    take: Take
    seen: set[Digest]
    result: WalkResult = field(default_factory=WalkResult)
    children: dict[Digest, None] = field(default_factory=dict)

    async def hand_over(self, outline: ManifestSummary) -> None:
        if outline.digest not in self.seen:
            self.seen.add(outline.digest)
            for child in outline.children:
                if len(self.children) <= MANIFESTS_MAX:
                    self.children[child] = None
            await self.take(outline)

    def next_level(self) -> list[Digest]:
        level, self.children = list(self.children), {}
        return level
