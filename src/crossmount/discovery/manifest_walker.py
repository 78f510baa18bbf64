"""From tags and digests to manifests, and to the children of indexes, which are delivered one at a time.

A manifest that is missing, or is not of an image, is skipped and counted: registries store other things too, and
an index may name platforms that were never pushed.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import field
from functools import partial

from crossmount._dataclass import dataclass
from crossmount._tasks import run_all
from crossmount.discovery.manifest_summary import ManifestCache, ManifestSummary
from crossmount.errors import InvalidAnswerError, RegistryRefusedError
from crossmount.oci import Digest, Reference, Repository
from crossmount.oci.manifest import ManifestWalk
from crossmount.registry import RegistryClient

MANIFESTS_MAX = 4096
"""The largest number of manifests that one walk reads, whatever indexes name."""

_REASONS_MAX = 20

OnManifest = Callable[[ManifestSummary], Awaitable[None]]


@dataclass(slots=True)
class WalkResult:
    """The counts of one walk, or of several.

    Attributes:
        fetched: manifests that the registry sent.
        known: manifests that the cache had, and that were not requested.
        skipped: manifests and tags that were left out.
        build_caches: fetched indexes that are build caches of BuildKit.
        reasons: why, for the first few.
    """

    fetched: int = 0
    known: int = 0
    skipped: int = 0
    build_caches: int = 0
    reasons: list[str] = field(default_factory=list)

    def skip(self, reason: str) -> None:
        """Count a manifest or a tag that is left out."""
        self.skipped += 1
        if len(self.reasons) < _REASONS_MAX:
            self.reasons.append(reason)

    def add(self, other: "WalkResult") -> None:
        """Add the counts of another walk."""
        self.fetched += other.fetched
        self.known += other.known
        self.skipped += other.skipped
        self.build_caches += other.build_caches
        self.reasons.extend(other.reasons[: _REASONS_MAX - len(self.reasons)])


class ManifestWalker:
    """Reads manifests of one registry.

    Args:
        client: the registry's client.
        cache: manifests that it has are not fetched; None fetches every manifest, and each tag with one request.
        gate: limits how many manifests are fetched at once.
    """

    def __init__(self, client: RegistryClient, cache: ManifestCache | None, *, gate: asyncio.Semaphore) -> None:
        self._client = client
        self._cache = cache
        self._gate = gate

    async def walk(
        self,
        repository: Repository,
        targets: Iterable[str],
        on_manifest: OnManifest,
        *,
        seen: set[Digest] | None = None,
    ) -> WalkResult:
        """Read the manifests of some tags and digests, and all manifests that those name.

        Args:
            repository: the repository that has them.
            targets: each a tag, or a `Digest`.
            on_manifest: receives each manifest once, an index before its children.
            seen: manifests to pass over; the manifests of this walk are added.

        Raises:
            RegistryError: the registry did not answer, or refused for a reason other than a missing manifest.
        """
        result = WalkResult()
        walk = ManifestWalk(
            limit=MANIFESTS_MAX,
            exceeded=lambda reason, _: result.skip(f"{repository}: {reason}"),
            seen=set() if seen is None else seen,
        )
        current = _Walk(repository, on_manifest, walk, result)
        wanted = dict.fromkeys(targets)
        tags = [target for target in wanted if not isinstance(target, Digest)]
        walk.want([target for target in wanted if isinstance(target, Digest)])
        if self._cache is not None:
            walk.want(await self._resolve(current, tags))
            tags = []
        level = walk.next_level()
        while tags or level:
            known = {} if self._cache is None or not level else await self._cache.load(level)
            for manifest in known.values():
                result.known += 1
                await current.deliver(manifest)
            rest: list[str] = [*tags, *(digest for digest in level if digest not in known)]
            await run_all([partial(self._fetch, current, target) for target in rest])
            tags, level = [], walk.next_level()
        return result

    async def _resolve(self, current: "_Walk", tags: list[str]) -> list[Digest]:
        """Return the digests that tags stand for, by one HEAD request each."""
        digests: list[Digest] = []

        async def resolve(tag: str) -> None:
            reference = Reference(current.repository, tag=tag)
            async with self._gate:
                try:
                    found = await self._client.head_manifest(reference)
                except InvalidAnswerError as error:
                    current.result.skip(str(error))
                    return
            if found is None:
                current.result.skip(f"{reference}: not there any more")
            elif not (found.is_index or found.is_manifest):
                current.result.skip(f"{reference}: of type {found.media_type[:200]!r}")
            else:
                digests.append(found.digest)

        await run_all([partial(resolve, tag) for tag in tags])
        return digests

    async def _fetch(self, current: "_Walk", target: str) -> None:
        reference = (
            Reference(current.repository, digest=target)
            if isinstance(target, Digest)
            else Reference(current.repository, tag=target)
        )
        async with self._gate:  # also while it is delivered: fetched manifests must not pile up
            try:
                found = await self._client.get_manifest(reference)
            except InvalidAnswerError as error:
                current.result.skip(str(error))
                return
            except RegistryRefusedError as error:
                if error.status != 404:
                    raise
                current.result.skip(f"{reference}: not there")
                return
            current.result.fetched += 1
            current.result.build_caches += found.is_build_cache
            await current.deliver(ManifestSummary.of(found))


@dataclass(frozen=True, slots=True)
class _Walk:
    """One walk in progress."""

    repository: Repository
    on_manifest: OnManifest
    walk: ManifestWalk
    result: WalkResult

    async def deliver(self, manifest: ManifestSummary) -> None:
        """Deliver a manifest, unless it was delivered before."""
        if self.walk.add(manifest.digest, manifest.children):
            await self.on_manifest(manifest)
