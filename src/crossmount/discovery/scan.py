"""A scan: records in the index which layers a registry already has. Catalogue, then tags, manifests, layers."""

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import field, replace

from crossmount import events
from crossmount._arguments import check_kind
from crossmount._dataclass import dataclass
from crossmount._tasks import run_all
from crossmount.discovery.manifest_summary import ManifestSummary, manifest_cache_of
from crossmount.discovery.manifest_walker import ManifestWalker, WalkResult
from crossmount.discovery.repository_selection import batches, select_repositories
from crossmount.discovery.scan_state import ScanCheckpoint, ScanCounts, ScanRecorder, ScanReport
from crossmount.errors import (
    AccessDeniedError,
    IndexFailedError,
    RegistryError,
    RegistryRefusedError,
    RegistryUnreachableError,
)
from crossmount.index.adapt import adapt
from crossmount.index.protocol import MountableLayers, backing_server
from crossmount.oci import Digest, Located, Repository
from crossmount.registry import ClientOptions, RegistryClient

REQUESTS = 8
TAGS_MAX = 100_000
"""The largest number of tags that are followed in one repository."""

FAILURES_MAX = 10
"""The scan ends after this many repositories in a row that failed."""

FLUSH_SECONDS = 5.0
"""How long an interrupted scan may take to record what it found."""

_BATCH = 50
_SEEN_MAX = 100_000

_log = logging.getLogger(__name__)


async def scan(
    registry: str | Located,
    *,
    index: MountableLayers,
    repositories: Iterable[str] | None = None,
    patterns: Iterable[str] = (),
    client: RegistryClient | None = None,
    options: ClientOptions = ClientOptions(),  # noqa: B008 a frozen value
    requests: int = REQUESTS,
    since_last: bool = False,
    afresh: bool = False,
    observer: events.Observer = events.ignore,
    clock: Callable[[], float] = time.monotonic,
) -> ScanReport:
    """Record in the index which layers a registry has, and in which repositories.

    A scan that was killed within the last day is resumed by the next one of the same registry with the same
    `repositories` and `patterns`. One repository that fails does not end the scan. Unlike a push, a scan fails if
    the index fails, since filling the index is its purpose; what it recorded until then stays.

    Args:
        registry: the registry, or anything on it.
        index: the index to fill. One that `open_index` returned also stores how far the scan is, and which
            manifests are known.
        repositories: names of the repositories to scan; None uses the registry's catalogue.
        patterns: scan only repositories that match one of these, as in `team/*`, where `*` is any text; none
            scans all.
        client: a client of the registry; without it one is made from `options`.
        options: how to reach the registry, without `client`; its `rate` limits the requests.
        requests: the largest number of concurrent requests.
        since_last: do not fetch manifests that an earlier scan read, here or elsewhere: one HEAD request gives
            each tag's digest, and a known manifest's layers are recorded again.
        afresh: start over instead of resuming an unfinished scan.
        observer: receives a `RepositoryScanned` for each repository.
        clock: seconds.

    Raises:
        InvalidInputError: a repository's name breaks the grammar.
        RegistryError: the registry does not answer, does not list its repositories, or keeps failing.
        IndexFailedError: the index did not answer, or refused.
    """
    check_kind("options", options, ClientOptions, "a crossmount.ClientOptions")
    started = clock()
    where = Repository.on(registry)
    given = tuple(dict.fromkeys(patterns))
    named = None if repositories is None else list(repositories)
    whole = adapt(index)
    cache = manifest_cache_of(whole)
    choice = [*given, *([] if named is None else ["", *named])]
    checkpoint = ScanCheckpoint(backing_server(whole), where.registry, choice, run=secrets.token_hex(8))
    async with AsyncExitStack() as stack:
        if client is None:
            made = replace(options, max_connections=min(requests, options.max_connections))
            client = await stack.enter_async_context(RegistryClient(where, options=made, observer=observer))
        resumed = await checkpoint.begin(afresh=afresh)
        work = _Scan(
            where=where,
            client=client,
            walker=ManifestWalker(client, cache if since_last else None, gate=asyncio.Semaphore(requests)),
            recorder=ScanRecorder(whole, cache, checkpoint, clock=clock),
            checkpoint=checkpoint,
            resumed=resumed,
            must_exist=named is not None,
            observer=events.never_raising(observer),
        )
        names = await stack.enter_async_context(aclosing(work.names(named, given)))
        try:
            await work.run(names, at_once=requests)
            await work.recorder.flush()
        except BaseException as error:
            if not isinstance(error, IndexFailedError):
                await asyncio.shield(work.record_rest())
            raise
        await checkpoint.end()
    return work.counts.report(registry=where.registry, resumed=resumed, seconds=clock() - started)


@dataclass(slots=True, kw_only=True)
class _Scan:
    """A scan in progress.

    Attributes:
        must_exist: the caller named the repositories, so a missing one is a failure.
        in_a_row: repositories that failed since the last one that did not.
    """

    where: Repository
    client: RegistryClient
    walker: ManifestWalker
    recorder: ScanRecorder
    checkpoint: ScanCheckpoint
    resumed: bool
    must_exist: bool
    observer: events.Observer
    counts: ScanCounts = field(default_factory=ScanCounts)
    in_a_row: int = 0

    async def names(self, given: Sequence[str] | None, patterns: Sequence[str]) -> AsyncGenerator[Repository]:
        """Yield the repositories that match and are not finished."""
        counts = self.counts
        found = select_repositories(self.client, self.where, given, patterns, listed=self._count_listed)
        if not self.resumed:
            async for repository in found:
                counts.fitting += 1
                yield repository
            return
        async for some in batches(found, _BATCH):
            counts.fitting += len(some)
            left = await self.checkpoint.unfinished(some)
            counts.before += len(some) - len(left)
            for repository in left:
                yield repository

    async def run(self, names: AsyncIterator[Repository], *, at_once: int) -> None:
        """Scan several repositories at once."""
        next_name = asyncio.Lock()

        async def work() -> None:
            while True:
                async with next_name:
                    repository = await anext(names, None)
                if repository is None:
                    return
                await self._scan(repository)

        await run_all([work] * at_once)

    async def record_rest(self) -> None:
        """Record what was found before the scan was interrupted, if the index does so soon."""
        try:
            async with asyncio.timeout(FLUSH_SECONDS):
                await self.recorder.flush()
        except (IndexFailedError, TimeoutError) as error:
            _log.warning("the last findings are not recorded: %s", str(error) or "the index takes too long")

    def _count_listed(self) -> None:
        self.counts.listed += 1

    async def _scan(self, repository: Repository) -> None:
        """Scan a repository; an error that concerns it alone does not end the scan."""
        counts, current = self.counts, _RepositoryScan(repository)
        try:
            await self._follow(current)
        except RegistryUnreachableError:
            raise
        except RegistryError as error:
            await self._failed(current, error)
        else:
            self.in_a_row = 0
            counts.repositories += 1
            await self.recorder.repository_done(repository)
            self._notify(current, "scanned")
        finally:
            counts.tags += current.tags
            counts.layers += current.layers
            counts.walked.add(current.walked)

    async def _follow(self, current: "_RepositoryScan") -> None:
        repository = current.repository

        async def on_manifest(manifest: ManifestSummary) -> None:
            current.count(manifest)
            await self.recorder.add_manifest(repository, manifest)

        listed = 0  # finished tags count too: a registry may list the same ones endlessly
        async with aclosing(batches(self.client.list_tags(repository), _BATCH)) as pages:
            async for tags in pages:
                if listed >= TAGS_MAX:
                    current.walked.skip(f"{repository}: more than {TAGS_MAX} tags: the others are left out")
                    return
                listed += len(tags)
                left = await self.checkpoint.unfinished_tags(repository, tags) if self.resumed else tags
                current.forget_if_many()
                current.walked.add(await self.walker.walk(repository, left, on_manifest, seen=current.manifests))
                current.tags += len(left)
                await self.recorder.tags_done(repository, tags)

    async def _failed(self, current: "_RepositoryScan", error: RegistryError) -> None:
        counts = self.counts
        status = error.status if isinstance(error, RegistryRefusedError) else None
        if status == 404 and not self.must_exist:  # a catalogue lists repositories that were emptied, too
            await self.recorder.repository_done(current.repository)
            self._notify(current, "gone")
        elif isinstance(error, AccessDeniedError) and not self.must_exist:
            counts.unreadable += 1
            await self.recorder.repository_done(current.repository)
            self._notify(current, "unreadable")
        else:
            counts.failed += 1
            counts.denied += isinstance(error, AccessDeniedError)
            counts.remark(str(error))
            self.in_a_row += 1
            self._notify(current, "failed", str(error))
            if status == 429 or self.in_a_row >= FAILURES_MAX:
                raise error

    def _notify(self, current: "_RepositoryScan", outcome: events.ScanOutcome, cause: str = "") -> None:
        self.observer(
            events.RepositoryScanned(
                repository=current.repository,
                outcome=outcome,
                tags=current.tags,
                manifests=current.walked.fetched + current.walked.known,
                layers=current.layers,
                cause=cause,
            )
        )


@dataclass(slots=True)
class _RepositoryScan:
    """The scan of one repository, with what was found there, so that nothing is counted twice."""

    repository: Repository
    tags: int = 0
    layers: int = 0
    walked: WalkResult = field(default_factory=WalkResult)
    manifests: set[Digest] = field(default_factory=set)
    blobs: set[Digest] = field(default_factory=set)

    def count(self, manifest: ManifestSummary) -> None:
        """Count the layers that were not found here before."""
        for blob, _ in manifest.blobs:
            if blob not in self.blobs:
                self.blobs.add(blob)
                self.layers += 1

    def forget_if_many(self) -> None:
        """Bound the memory for a repository without end: to find a blob twice costs only time."""
        if len(self.manifests) + len(self.blobs) > _SEEN_MAX:
            self.manifests.clear()
            self.blobs.clear()
