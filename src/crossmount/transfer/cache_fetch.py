"""Fetches blobs into the cache, each once, and reads them from it while they arrive."""

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import field

from crossmount import events
from crossmount._dataclass import dataclass
from crossmount._tasks import collect, run_to_end
from crossmount.errors import BlobUnavailableError, CrossmountError
from crossmount.oci import Descriptor, Digest, Repository
from crossmount.transfer.cache import BlobCache, Incoming
from crossmount.transfer.fetch import SLOWEST_RATE, FetchedBlob

PIECE_BYTES = 1024 * 1024
POLL_SECONDS = 0.05
STUCK_SECONDS = 30.0
"""How long another process that fetches a blob may write nothing before the cache is bypassed."""


class CacheFailedError(CrossmountError):
    """The cache failed for a blob, which then bypasses it. Internal to `transfer`."""


class CacheFetcher:
    """Fetches blobs into a cache, for one copy.

    Args:
        cache: the cache.
        observer: receives one `CacheDegraded` if the cache fails.
        now: epoch seconds.
    """

    def __init__(
        self,
        cache: BlobCache,
        *,
        observer: events.Observer = events.ignore,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.cache = cache
        self._observer = observer
        self._now = now
        self._running: dict[Digest, _CacheFetch] = {}
        self._degraded = False

    async def aclose(self) -> None:
        """Cancel the fetches in progress."""
        running = [fetch.task for fetch in self._running.values() if fetch.task is not None]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def fetch(self, blob: FetchedBlob) -> "_CacheFetch":
        """Return the fetch of a blob: the one in progress, or a new one."""
        digest = blob.descriptor.digest
        fetch = self._running.get(digest)
        if fetch is None or fetch.ended:
            fetch = self._running[digest] = _CacheFetch(self.cache, blob, self._now)
            fetch.task = asyncio.create_task(self._run(fetch))
            fetch.task.add_done_callback(collect)
        return fetch

    def degrade(self, error: OSError) -> None:
        """Notify the observer, once, that the cache failed."""
        if not self._degraded:
            self._degraded = True
            self._observer(
                events.CacheDegraded(cause=f"{self.cache.folder}: {error.strerror or type(error).__name__}")
            )

    async def _run(self, fetch: "_CacheFetch") -> None:
        digest = fetch.blob.descriptor.digest
        try:
            await fetch.run()
        finally:
            if self._running.get(digest) is fetch:
                del self._running[digest]
        if isinstance(fetch.error, OSError):
            self.degrade(fetch.error)


@dataclass(slots=True, eq=False)
class CacheOrigin:
    """The cache as the origin of one blob.

    Attributes:
        cached: fetches blobs into the cache.
        blob: the same blob without the cache.
    """

    cached: CacheFetcher
    blob: FetchedBlob
    _was_wrong: bool = False

    @property
    def repository(self) -> Repository | None:
        """None: the cache is not a repository."""
        return None

    def __str__(self) -> str:
        return f"the cache in {self.cached.cache.folder}"

    async def read(self, descriptor: Descriptor, offset: int) -> AsyncGenerator[bytes]:
        """Yield the bytes; if another image's fetch of the blob fails, our own origins are tried."""
        at = offset
        while at < descriptor.size:
            fetch = self.cached.fetch(self.blob)
            try:
                with fetch.being_read():
                    while at < descriptor.size:
                        data = await fetch.piece(at)
                        at += len(data)
                        yield data
            except BlobUnavailableError:
                if fetch.blob is self.blob:
                    raise
            except OSError as error:
                self.cached.degrade(error)
                raise CacheFailedError(f"{self}: {error.strerror}") from error

    async def failed(self, descriptor: Descriptor, error: CrossmountError) -> None:
        """Do nothing: the cache was bypassed already."""

    async def sent_wrong_bytes(self, descriptor: Descriptor) -> bool:
        """Remove the damaged file; return True the first time, so that it is fetched again."""
        again, self._was_wrong = not self._was_wrong, True
        try:
            self.cached.cache.discard(descriptor)
        except OSError as error:
            self.cached.degrade(error)
            return False
        return again


@dataclass(slots=True, eq=False)
class _CacheFetch:
    """One blob that is fetched into the cache, or is already there.

    Attributes:
        size: bytes that can be read so far.
        error: why no more bytes will arrive.
        readers: the number of readers now.
        ended: whether no more bytes will arrive.
    """

    cache: BlobCache
    blob: FetchedBlob
    now: Callable[[], float]
    size: int = 0
    error: BaseException | None = None
    readers: int = 0
    ended: bool = False
    task: "asyncio.Task[None] | None" = None
    _fileno: int | None = None
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def run(self) -> None:
        """Fetch it; its readers receive the error if that fails."""
        try:
            await self._fetch()
        except (CrossmountError, OSError) as error:
            self.error = error
        except asyncio.CancelledError:
            self.error = CacheFailedError("the copy that fetched it has ended")
            raise
        finally:
            self.ended = True
            self.blob.release()
            await asyncio.shield(self._advance(self.size))
            self._close_if_done()

    async def piece(self, at: int) -> bytes:
        """Return bytes from `at` on as soon as there are any."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.size > at or self.ended)
        if self.size > at and self._fileno is not None:
            wanted = min(self.size - at, PIECE_BYTES)
            data = await run_to_end(os.pread, self._fileno, wanted, at)
            if not data:
                raise CacheFailedError(f"blob {self.blob.descriptor.digest} was cut short in {self.cache.folder}")
            return data
        if self.error is None:  # it was fetched for an image that gives it another size
            raise CacheFailedError(
                f"blob {self.blob.descriptor.digest} is in {self.cache.folder}, with fewer bytes"
            )
        if isinstance(self.error, OSError):
            raise CacheFailedError(f"{self.cache.folder}: {self.error.strerror}") from self.error
        raise self.error

    @contextmanager
    def being_read(self) -> Iterator[None]:
        """Keep the file open while it is read."""
        self.readers += 1
        try:
            yield
        finally:
            self.readers -= 1
            self._close_if_done()

    async def _fetch(self) -> None:
        descriptor = self.blob.descriptor
        if descriptor.size > self.cache.limit:
            raise CacheFailedError(f"blob {descriptor.digest} is larger than the cache's limit")
        incoming = await self._first()
        if incoming is None:
            return
        self._fileno = incoming.fileno
        try:
            await self._download(incoming)
            await run_to_end(incoming.keep)
        except BaseException:
            incoming.unlink()  # its readers still have it open
            raise
        await self._advance(descriptor.size)

    async def _first(self) -> Incoming | None:
        """Wait until the blob is in the cache (None), or until no other process fetches it."""
        descriptor = self.blob.descriptor
        began = seen = self.now()
        last: float | None = None
        while True:
            incoming = self.cache.begin(descriptor)
            fileno = self.cache.open(descriptor)
            if fileno is not None:
                if incoming is not None:
                    incoming.discard()
                self._fileno = fileno
                await self._advance(descriptor.size)
                return None
            if incoming is not None:
                return incoming
            now, touched = self.now(), self.cache.touched(descriptor)
            if touched != last:  # only a change counts: the file may be written by another host's clock
                last, seen = touched, now
            if now - seen > STUCK_SECONDS or now - began > STUCK_SECONDS + descriptor.size / SLOWEST_RATE:
                raise CacheFailedError(f"another process fetches {descriptor.digest} and makes no progress")
            await asyncio.sleep(POLL_SECONDS)

    async def _download(self, incoming: Incoming) -> None:
        """Write the blob; its last bytes arrive only if all are right, and count only when all are on disk."""
        await self._make_room()
        at, piece = 0, bytearray()
        async with aclosing(self.blob.stream()) as parts:
            async for part in parts:
                piece += part
                if len(piece) >= PIECE_BYTES:
                    await run_to_end(incoming.write, bytes(piece), at)
                    at += len(piece)
                    piece.clear()
                    await self._advance(at)
        if piece:
            await run_to_end(incoming.write, bytes(piece), at)

    async def _make_room(self) -> None:
        since = self.now()
        while (is_room := await run_to_end(self.cache.make_room)) is None:
            if self.now() - since > STUCK_SECONDS:
                raise CacheFailedError(f"{self.cache.folder}: another process evicts blobs and makes no progress")
            await asyncio.sleep(POLL_SECONDS)
        if not is_room:
            raise CacheFailedError(f"{self.cache.folder} is full of incomplete blobs")

    def _close_if_done(self) -> None:
        """Close the file after the fetch and its last reader have ended."""
        if self.ended and not self.readers and self._fileno is not None:
            os.close(self._fileno)
            self._fileno = None

    async def _advance(self, size: int) -> None:
        """Wake the readers: this many bytes can be read."""
        async with self._changed:
            self.size = size
            self._changed.notify_all()
