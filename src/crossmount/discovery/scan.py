"""The scan: what a registry holds already, told to the index. Catalogue, tags, manifests, layers."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field, replace

from crossmount import events
from crossmount.discovery.manifest_cache import manifest_cache_of
from crossmount.discovery.manifest_summary import ManifestSummary
from crossmount.discovery.manifest_walker import ManifestWalker, WalkResult
from crossmount.discovery.repository_selection import batches, wanted
from crossmount.discovery.scan_checkpoint import ScanCheckpoint, progress_of
from crossmount.discovery.scan_recorder import ScanRecorder
from crossmount.discovery.scan_report import ScanReport
from crossmount.errors import (
    AccessDeniedError,
    IndexFailedError,
    RegistryError,
    RegistryRefusedError,
    RegistryUnreachableError,
)
from crossmount.index.adapt import widen
from crossmount.index.protocol import MountableLayers
from crossmount.oci import Digest, Located, Repository
from crossmount.registry import ClientOptions, RegistryClient
from crossmount.transfer.concurrency import run_all

REQUESTS = 8
TAGS_MAX = 100_000
"""How many tags of one repository are followed."""

FAILURES_MAX = 10
"""After so many repositories in a row that failed the registry is left alone."""

FLUSH_SECONDS = 5.0
"""How long a scan that ends early may take to record what it saw."""

_BATCH = 50
_SEEN_MAX = 100_000
_REMARKS_MAX = 20

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
    """Tell the index which layers a registry holds, and where.

    A scan that was killed within the last day, of the same registry with the same `repositories` and `patterns`,
    is gone on with. One repository that fails does not end it. Unlike a push, a scan fails with the index, which
    is its purpose; what was recorded until then stays.

    Args:
        registry: which; or anything that lies on it.
        index: is told; made by `open_index`, it also keeps how far the scan is and which manifests are known.
        repositories: the names of those to scan; None asks the registry's catalogue.
        patterns: only repositories that fit one of them, as in `team/*`, where `*` is any text; none means all.
        client: the client of the registry, if there is one already; else one is made from `options`.
        options: how to reach the registry, without `client`; its `rate` says how often it is asked.
        requests: how many requests are on their way at once.
        since_last: do not fetch manifests that an earlier scan saw, here or elsewhere: each tag is asked for its
            digest only, and what is remembered is recorded anew.
        afresh: forget a scan that was not finished, instead of going on with it.
        observer: told of each repository.
        clock: seconds.

    Raises:
        InvalidInputError: a name is none.
        RegistryError: the registry does not answer, does not list its repositories, or fails all the time.
        IndexFailedError: the index does not serve.
    """
    started = clock()
    where = Repository.on(registry)
    fits = tuple(dict.fromkeys(patterns))
    named = None if repositories is None else list(repositories)
    whole = widen(index)
    memory = manifest_cache_of(whole)
    progress = progress_of(whole, where.registry, [*fits, *([] if named is None else ["", *named])])
    async with AsyncExitStack() as stack:
        if client is None:
            made = replace(options, max_connections=min(requests, options.max_connections))
            client = await stack.enter_async_context(RegistryClient(where, options=made, observer=observer))
        resumed = await progress.begin(afresh=afresh)
        work = _Scan(
            where=where,
            client=client,
            walker=ManifestWalker(client, memory if since_last else None, gate=asyncio.Semaphore(requests)),
            recorder=ScanRecorder(whole, memory, progress, clock=clock),
            progress=progress,
            resumed=resumed,
            trusts=named is not None,
            observer=observer,
        )
        names = await stack.enter_async_context(aclosing(work.names(named, fits)))
        try:
            await work.run(names, side_by_side=requests)
            await work.recorder.flush()
        except BaseException as error:
            if not isinstance(error, IndexFailedError):
                await asyncio.shield(work.rescue())
            raise
        await progress.end()
    return work.report(clock() - started)


@dataclass(slots=True, kw_only=True)
class _Scan:
    """One scan under way.

    Attributes:
        trusts: the names were given by our caller, so one that is not there is a failure.
    """

    where: Repository
    client: RegistryClient
    walker: ManifestWalker
    recorder: ScanRecorder
    progress: ScanCheckpoint
    resumed: bool
    trusts: bool
    observer: events.Observer
    listed: int = 0
    fitting: int = 0
    repositories: int = 0
    before: int = 0
    tags: int = 0
    layers: int = 0
    unreadable: int = 0
    failed: int = 0
    denied: int = 0
    in_a_row: int = 0
    remarks: list[str] = field(default_factory=list)
    walked: WalkResult = field(default_factory=WalkResult)

    async def names(self, given: Sequence[str] | None, patterns: Sequence[str]) -> AsyncGenerator[Repository]:
        """Yield the repositories that are wanted and not done."""
        found = wanted(self.client, self.where, given, patterns, listed=self._listed)
        if not self.resumed:
            async for repository in found:
                self.fitting += 1
                yield repository
            return
        async for some in batches(found, _BATCH):
            self.fitting += len(some)
            left = await self.progress.left(some)
            self.before += len(some) - len(left)
            for repository in left:
                yield repository

    async def run(self, names: AsyncIterator[Repository], *, side_by_side: int) -> None:
        """Scan repositories side by side, each taking the next name when it is through."""
        turn = asyncio.Lock()

        async def work() -> None:
            while True:
                async with turn:
                    repository = await anext(names, None)
                if repository is None:
                    return
                await self._one(repository)

        await run_all([work] * side_by_side)

    async def rescue(self) -> None:
        """Record what was seen before the scan was ended, if the index takes it soon."""
        try:
            async with asyncio.timeout(FLUSH_SECONDS):
                await self.recorder.flush()
        except (IndexFailedError, TimeoutError) as error:
            _log.warning("what was seen last is not recorded: %s", str(error) or "the index takes too long")

    def report(self, seconds: float) -> ScanReport:
        """Return what it came to."""
        return ScanReport(
            registry=self.where.registry,
            resumed=self.resumed,
            listed=self.listed,
            fitting=self.fitting,
            repositories=self.repositories,
            before=self.before,
            tags=self.tags,
            fetched=self.walked.fetched,
            known=self.walked.known,
            layers=self.layers,
            skipped=self.walked.skipped,
            unreadable=self.unreadable,
            failed=self.failed,
            denied=self.denied,
            remarks=tuple([*self.remarks, *self.walked.reasons][:_REMARKS_MAX]),
            seconds=seconds,
        )

    def _listed(self) -> None:
        self.listed += 1

    async def _one(self, repository: Repository) -> None:
        """Scan a repository; what is only about this one does not end the scan."""
        one = _One(repository)
        try:
            await self._follow(one)
        except RegistryUnreachableError:
            raise
        except RegistryError as error:
            await self._failed(one, error)
        else:
            self.in_a_row = 0
            self.repositories += 1
            await self.recorder.repository_done(repository)
            self._tell(one, "scanned")
        finally:
            self.tags += one.tags
            self.layers += one.layers
            self.walked.add(one.walked)

    async def _follow(self, one: "_One") -> None:
        repository = one.repository

        async def take(outline: ManifestSummary) -> None:
            one.count(outline)
            await self.recorder.saw(repository, outline)

        listed = 0  # those that were done before count too: a list may name the same ones without end
        async with aclosing(batches(self.client.list_tags(repository), _BATCH)) as pages:
            async for tags in pages:
                if listed >= TAGS_MAX:
                    one.walked.skip(f"{repository}: more than {TAGS_MAX} tags: the others are left out")
                    return
                listed += len(tags)
                left = await self.progress.left_tags(repository, tags) if self.resumed else tags
                one.forget_if_many()
                one.walked.add(await self.walker.walk(repository, left, take, seen=one.manifests))
                one.tags += len(left)
                await self.recorder.tags_done(repository, tags)

    async def _failed(self, one: "_One", error: RegistryError) -> None:
        status = error.status if isinstance(error, RegistryRefusedError) else None
        if status == 404 and not self.trusts:  # a catalogue lists what was emptied, too
            await self.recorder.repository_done(one.repository)
            self._tell(one, "gone")
        elif isinstance(error, AccessDeniedError) and not self.trusts:
            self.unreadable += 1
            await self.recorder.repository_done(one.repository)
            self._tell(one, "unreadable")
        else:
            self.failed += 1
            self.denied += isinstance(error, AccessDeniedError)
            self.in_a_row += 1
            self._remark(str(error))
            self._tell(one, "failed", str(error))
            if status == 429 or self.in_a_row >= FAILURES_MAX:
                raise error

    def _tell(self, one: "_One", outcome: events.ScanOutcome, cause: str = "") -> None:
        self.observer(
            events.RepositoryScanned(
                repository=one.repository,
                outcome=outcome,
                tags=one.tags,
                manifests=one.walked.fetched + one.walked.known,
                layers=one.layers,
                cause=cause,
            )
        )

    def _remark(self, words: str) -> None:
        if len(self.remarks) < _REMARKS_MAX:
            self.remarks.append(words)


@dataclass(slots=True)
class _One:
    """One repository under way, with what was seen in it, so that nothing is told twice."""

    repository: Repository
    tags: int = 0
    layers: int = 0
    walked: WalkResult = field(default_factory=WalkResult)
    manifests: set[Digest] = field(default_factory=set)
    blobs: set[Digest] = field(default_factory=set)

    def count(self, outline: ManifestSummary) -> None:
        """Count the layers that were not seen here before."""
        for blob, _ in outline.blobs:
            if blob not in self.blobs:
                self.blobs.add(blob)
                self.layers += 1

    def forget_if_many(self) -> None:
        """Keep memory flat in a repository without end: seeing a thing twice costs only time."""
        if len(self.manifests) + len(self.blobs) > _SEEN_MAX:
            self.manifests.clear()
            self.blobs.clear()
