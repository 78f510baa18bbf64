"""The event feed: what a registry tells of itself keeps the index true, also for pushes that crossmount never saw.

A message is taken at once and worked on later, so that a registry is never held up. An event is a hint: a pushed
manifest is fetched, unless its digest is remembered, and a deleted blob is asked for before it is forgotten. A
blob's arrival is recorded as it was told, save on a registry that mounts only after a manifest.

While the index gives no answer nothing is taken, since a registry keeps what is not taken and sends it again; what
was taken before is held until the index serves.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable
from contextlib import AsyncExitStack
from functools import partial

from crossmount import events
from crossmount._closing import Closing
from crossmount.discovery.manifest_cache import manifest_cache_of
from crossmount.discovery.manifest_summary import ManifestSummary
from crossmount.discovery.manifest_walker import ManifestWalker
from crossmount.discovery.wait_for_index import IndexWaiter, WaitingManifestCache
from crossmount.discovery.webhooks import BlobArrived, Deleted, ManifestArrived, RegistryChange, read_webhook
from crossmount.errors import CrossmountError
from crossmount.index.backing_server import server_of
from crossmount.index.guard import GuardedIndex
from crossmount.index.protocol import MountableLayers, Sighting
from crossmount.oci import Digest, Located, Repository
from crossmount.registry import ClientOptions, RegistryClient
from crossmount.transfer.concurrency import run_all

WAITING_MAX = 10_000
"""How many things may wait to be worked on."""

WORKERS = 4
REQUESTS = 8
VERIFIED_MAX = 1024
"""How many blobs of one deleted manifest, its children's included, are asked for."""

_BATCH = 256
_log = logging.getLogger(__name__)


class EventFeed(Closing):
    """Takes one registry's events and works on them in the background, until it is closed.

    Args:
        registry: the registry, as clients call it, whatever its events call it; or anything that lies on it.
        index: is told. It never makes the feed fail: work waits while it gives no answer; what it refuses is lost,
            and found by the next scan.
        client: the client of the registry, if there is one already; else one is made from `options`.
        options: how to reach the registry, without `client`.
        observer: told of retries, and when the index does not serve, and serves again.

    Attributes:
        worked: how many things were worked on, by what they were; `failed` ones count there too.
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
        self._hold = IndexWaiter(guard)
        memory = manifest_cache_of(self._index)
        self._memory = memory if server_of(self._index) is None else WaitingManifestCache(memory, self._hold)
        self._stack = AsyncExitStack()
        if client is None:
            client = RegistryClient(self._registry, options=options, observer=observer)
            self._stack.push_async_callback(client.aclose)
        self._client = client
        self._gate = asyncio.Semaphore(REQUESTS)
        self._walker = ManifestWalker(client, self._memory, gate=self._gate)
        self._waiting: dict[RegistryChange, None] = {}
        self._changed = asyncio.Condition()
        self._at_work = 0
        self._workers: list[asyncio.Task[None]] = []

    async def accept(self, message: bytes) -> bool:
        """Take a registry's message.

        Things that wait already are not taken twice. Messages of kinds that say nothing of layers are passed over.

        Returns:
            False if too much waits, or the index gives no answer: then nothing of the message was taken, and it
                should come again later.

        Raises:
            InvalidInputError: it is not a JSON object.
        """
        happened = read_webhook(message, self._registry)
        new = [each for each in happened if each not in self._waiting]
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
        """Whether the index gives no answer, so that what was taken is held and nothing more is taken."""
        return self._hold.holds

    @property
    def waiting(self) -> int:
        """How many things wait, or are worked on."""
        return len(self._waiting) + self._at_work

    async def settled(self) -> None:
        """Wait until all that was taken is worked on, and so until the index serves."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self.waiting)

    async def aclose(self) -> None:
        """Stop; what still waits or is held is lost, and found by the next scan."""
        lost = self.waiting
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)
        self._workers = []
        self._waiting.clear()
        if lost:
            _log.warning("%d events were not worked on: scan the registry", lost)
        await self._stack.aclose()

    async def _work(self) -> None:
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: self._waiting)
                some = self._next()
                self._at_work += len(some)
            try:
                await self._do(some)
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
        """Take the oldest; of blobs that arrived, all that follow one another, for one round trip."""
        some: list[RegistryChange] = []
        for happened in self._waiting:
            if some and not (isinstance(happened, BlobArrived) and isinstance(some[0], BlobArrived)):
                break
            some.append(happened)
            if len(some) == _BATCH:
                break
        for happened in some:
            del self._waiting[happened]
        return some

    async def _do(self, some: list[RegistryChange]) -> None:
        match some[0]:
            case ManifestArrived(repository, target):
                await self._manifest_arrived(repository, target)
            case Deleted(repository, digest):
                await self._deleted(repository, digest)
            case BlobArrived():
                await self._blobs_arrived([each for each in some if isinstance(each, BlobArrived)])
        self.worked[type(some[0]).__name__] += len(some)

    async def _blobs_arrived(self, some: list[BlobArrived]) -> None:
        traits = (await self._hold.ask(lambda: self._index.look_up((), self._registry))).traits
        if not traits.after_manifest:
            await self._record([Sighting(each.digest, each.repository, each.size) for each in some])

    async def _manifest_arrived(self, repository: Repository, target: str) -> None:
        async def take(outline: ManifestSummary) -> None:
            await self._record(list(outline.sightings(repository)))
            await self._memory.keep([outline])

        walked = await self._walker.walk(repository, [target], take)
        for reason in walked.reasons:
            _log.info("passed over: %s", reason)

    async def _deleted(self, repository: Repository, digest: Digest) -> None:
        """Ask for what may have gone with it: the blob itself, or the blobs of the manifest that it was.

        A manifest can't be fetched any more, so its blobs are those that were remembered when it was pushed or
        scanned. One that nobody remembers is left to the mounts: the first that fails there forgets the source.
        """
        blobs: dict[Digest, int | None] = {digest: None}
        level: Iterable[Digest] = [digest]
        while level and len(blobs) < VERIFIED_MAX:
            outlines = await self._memory.recall(level)
            for outline in outlines.values():
                blobs.update(outline.blobs)
            level = [child for outline in outlines.values() for child in outline.children if child not in blobs]
            blobs.update(dict.fromkeys(level))
        wanted = list(blobs)[:VERIFIED_MAX]
        known = await self._hold.ask(lambda: self._index.look_up(wanted, repository))
        gone: list[Digest] = []
        await run_all([partial(self._verify, repository, blob, gone) for blob in wanted if known.of(blob).in_dest])
        if gone and await self._client.is_readable(repository):  # else they may only be hidden from us
            await run_all([partial(self._forget, repository, blob) for blob in gone])

    async def _forget(self, repository: Repository, blob: Digest) -> None:
        await self._hold.ask(lambda: self._index.forget(blob, repository))
        self.worked["forgotten"] += 1

    async def _verify(self, repository: Repository, blob: Digest, gone: list[Digest]) -> None:
        async with self._gate:
            size = await self._client.head_blob(repository, blob)
        if size is None:
            gone.append(blob)
        else:
            await self._record([Sighting(blob, repository, size if size >= 0 else None)])

    async def _record(self, sightings: list[Sighting]) -> None:
        await self._hold.ask(lambda: self._index.record(sightings))
