"""The event feed: a registry's webhooks keep the index up to date, also for pushes that bypass crossmount.

A message is accepted at once and processed later, so that the registry never waits. An event only hints: a pushed
manifest is fetched unless the cache has its digest, and a deleted blob is checked by HEAD before it is forgotten.
A pushed blob is recorded without a check, except on a registry that mounts only after a manifest.

While the index does not answer, new messages are refused, since a registry keeps a refused message and sends it
again; what was accepted before waits until the index answers.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from typing import TypeVar

from crossmount import events
from crossmount._tasks import Closing, run_all
from crossmount.discovery.manifest_summary import ManifestCache, ManifestSummary, manifest_cache_of
from crossmount.discovery.manifest_walker import ManifestWalker
from crossmount.discovery.webhooks import BlobArrived, Deleted, ManifestArrived, RegistryChange, read_webhook
from crossmount.errors import CrossmountError, IndexUnavailableError
from crossmount.index.guard import GuardedIndex
from crossmount.index.protocol import MountableLayers, Sighting, backing_server
from crossmount.oci import Digest, Located, Repository
from crossmount.oci.manifest import ManifestWalk
from crossmount.redis.replies import StartingError
from crossmount.registry import ClientOptions, RegistryClient

WAITING_MAX = 10_000
"""The largest number of changes that may wait."""

WORKERS = 4
REQUESTS = 8
VERIFIED_MAX = 1024
"""The largest number of blobs that are checked for one deleted manifest, those of its children included."""

RETRY_SECONDS = 1.0
"""The pause before the index is asked again; the guard's breaker decides when a call is sent."""

_BATCH = 256
_log = logging.getLogger(__name__)

T = TypeVar("T")


class EventFeed(Closing):
    """Accepts one registry's webhooks and processes them in the background until it is closed.

    Args:
        registry: the registry by the name that clients use, whatever its events call it; or anything on it.
        index: the index to update. Its failures never end the feed: work waits while the index does not answer.
            An update that the index refuses is lost, and the next scan finds it.
        client: a client of the registry; without it one is made from `options`.
        options: how to reach the registry, without `client`.
        observer: receives retries, and an event when the index stops answering and when it answers again.

    Attributes:
        worked: how many changes were processed, by kind; failed ones also count under `failed`.
    """

    def __init__(
        self,
        registry: str | Located,
        index: MountableLayers,
        *,
        client: RegistryClient | None = None,
        options: ClientOptions = ClientOptions(),  # noqa: B008 a frozen value
        observer: events.Observer = events.ignore,
    ) -> None:
        self.worked: Counter[str] = Counter()
        self._registry = Repository.on(registry)
        guard = index if isinstance(index, GuardedIndex) else GuardedIndex(index, observer=observer, lasting=True)
        self._index = guard.unguarded
        self._waiter = _IndexWaiter(guard)
        cache = manifest_cache_of(self._index)
        self._cache = cache if backing_server(self._index) is None else _WaitingManifestCache(cache, self._waiter)
        self._stack = AsyncExitStack()
        if client is None:
            client = RegistryClient(self._registry, options=options, observer=observer)
            self._stack.push_async_callback(client.aclose)
        self._client = client
        self._gate = asyncio.Semaphore(REQUESTS)
        self._walker = ManifestWalker(client, self._cache, gate=self._gate)
        self._waiting: dict[RegistryChange, None] = {}
        self._changed = asyncio.Condition()
        self._at_work = 0
        self._workers: list[asyncio.Task[None]] = []

    async def accept(self, message: bytes) -> bool:
        """Accept a registry's message.

        A change that is already waiting is not added twice. Messages that say nothing about layers are ignored.

        Returns:
            False if too many changes wait, or the index does not answer: nothing of the message was accepted, and
                the registry should send it again later.

        Raises:
            InvalidInputError: it is not a JSON object.
        """
        changes = read_webhook(message, self._registry)
        new = [change for change in changes if change not in self._waiting]
        if len(self._waiting) + len(new) > WAITING_MAX or (new and self.holds):
            return False
        self._waiting.update(dict.fromkeys(new))
        if not self._workers:
            self._workers = [asyncio.create_task(self._work()) for _ in range(WORKERS)]
        async with self._changed:
            self._changed.notify_all()
        return True

    @property
    def holds(self) -> bool:
        """Whether the index does not answer, so that accepted changes wait and new messages are refused."""
        return self._waiter.waits

    @property
    def waiting(self) -> int:
        """How many changes wait or are being processed."""
        return len(self._waiting) + self._at_work

    async def settled(self) -> None:
        """Wait until everything accepted is processed, and so until the index answers."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self.waiting)

    async def aclose(self) -> None:
        """Stop; changes that still wait are lost, and the next scan finds them."""
        lost = self.waiting
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)
        self._workers = []
        self._waiting.clear()
        if lost:
            _log.warning("%d events were not processed: scan the registry", lost)
        await self._stack.aclose()

    async def _work(self) -> None:
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: self._waiting)
                some = self._next()
                self._at_work += len(some)
            try:
                await self._process(some)
            except CrossmountError as error:
                self.worked["failed"] += len(some)
                _log.warning("%s: an event is lost: %s", some[0].repository, error)
            except Exception:  # noqa: BLE001 a defect, maybe of a user's own index: the feed outlives it
                self.worked["failed"] += len(some)
                _log.exception("%s: an event is lost", some[0].repository)
            finally:
                self._at_work -= len(some)
                async with self._changed:
                    self._changed.notify_all()

    def _next(self) -> list[RegistryChange]:
        """Remove and return the oldest change; of pushed blobs a whole run of them, for one round trip."""
        some: list[RegistryChange] = []
        for change in self._waiting:
            if some and not (isinstance(change, BlobArrived) and isinstance(some[0], BlobArrived)):
                break
            some.append(change)
            if len(some) == _BATCH:
                break
        for change in some:
            del self._waiting[change]
        return some

    async def _process(self, some: list[RegistryChange]) -> None:
        match some[0]:
            case ManifestArrived(repository, target):
                await self._manifest_arrived(repository, target)
            case Deleted(repository, digest):
                await self._deleted(repository, digest)
            case BlobArrived():
                await self._blobs_arrived([each for each in some if isinstance(each, BlobArrived)])
        self.worked[type(some[0]).__name__] += len(some)

    async def _blobs_arrived(self, some: list[BlobArrived]) -> None:
        traits = (await self._waiter.call(lambda: self._index.look_up((), self._registry))).traits
        if not traits.after_manifest:
            await self._record([Sighting(each.digest, each.repository, each.size) for each in some])

    async def _manifest_arrived(self, repository: Repository, target: str) -> None:
        async def take(manifest: ManifestSummary) -> None:
            await self._record(list(manifest.sightings(repository)))
            await self._cache.store([manifest])

        walked = await self._walker.walk(repository, [target], take)
        for reason in walked.reasons:
            _log.info("skipped: %s", reason)

    async def _deleted(self, repository: Repository, digest: Digest) -> None:
        """Check what may be gone: the blob itself, or the blobs of the manifest that it was.

        A deleted manifest cannot be fetched, so its blobs come from the cache, where its push or a scan stored
        them. If the cache lacks it, the first mount that fails there makes the index forget the source.
        """
        found: dict[Digest, None] = {}
        walk = ManifestWalk(limit=VERIFIED_MAX, exceeded=lambda *_: None)  # the index only hints: a part will do
        walk.want([digest])
        while len(found) < VERIFIED_MAX and (level := walk.next_level()):
            found.update(dict.fromkeys(level))
            for manifest in (await self._cache.load(level)).values():
                found.update((blob, None) for blob, _ in manifest.blobs)
                walk.add(manifest.digest, manifest.children)
        wanted = list(found)[:VERIFIED_MAX]
        known = await self._waiter.call(lambda: self._index.look_up(wanted, repository))
        gone: list[Digest] = []
        await run_all([partial(self._verify, repository, blob, gone) for blob in wanted if known.of(blob).in_dest])
        if gone and await self._client.is_readable(repository):  # otherwise the account may not see them
            await run_all([partial(self._forget, repository, blob) for blob in gone])

    async def _forget(self, repository: Repository, blob: Digest) -> None:
        await self._waiter.call(lambda: self._index.forget(blob, repository))
        self.worked["forgotten"] += 1

    async def _verify(self, repository: Repository, blob: Digest, gone: list[Digest]) -> None:
        async with self._gate:
            size = await self._client.head_blob(repository, blob)
        if size is None:
            gone.append(blob)
        else:
            await self._record([Sighting(blob, repository, size if size >= 0 else None)])

    async def _record(self, sightings: list[Sighting]) -> None:
        await self._waiter.call(lambda: self._index.record(sightings))


class _IndexWaiter:
    """Repeats calls until the index answers: background work may wait, and must not be lost.

    A call that the index refuses is not repeated, since it would be refused again.

    Args:
        guard: its breaker decides when a call is sent.
    """

    def __init__(self, guard: GuardedIndex) -> None:
        self._guard = guard
        self._callers = 0

    @property
    def waits(self) -> bool:
        """Whether the index is known not to answer, so that more work would only wait."""
        return self._callers > 0 or self._guard.breaker_open

    async def call(self, call: Callable[[], Awaitable[T]]) -> T:
        """Repeat `call` until it is answered; it may take effect more than once.

        Raises:
            IndexRefusedError: the index refused.
            MissingExtraError: the server to start is not installed.
        """
        waits = False
        try:
            while True:
                try:
                    return await self._guard.call(call)
                except (IndexUnavailableError, StartingError):
                    self._callers += not waits
                    waits = True
                await asyncio.sleep(RETRY_SECONDS)
        finally:
            self._callers -= waits


class _WaitingManifestCache:
    """A cache on the server of an index, each call of which waits until the server answers."""

    def __init__(self, cache: ManifestCache, waiter: _IndexWaiter) -> None:
        self._cache = cache
        self._waiter = waiter

    async def load(self, digests: Iterable[Digest]) -> Mapping[Digest, ManifestSummary]:
        """Load as soon as the server answers."""
        wanted = list(digests)
        return await self._waiter.call(lambda: self._cache.load(wanted))

    async def store(self, manifests: Iterable[ManifestSummary]) -> None:
        """Store as soon as the server answers."""
        wanted = list(manifests)
        await self._waiter.call(lambda: self._cache.store(wanted))
