"""Blobs on their way through the cache: fetched into it once, and read from it while they come."""

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field

from crossmount import events
from crossmount.errors import BlobUnavailableError, CrossmountError
from crossmount.oci import Descriptor, Digest, Repository
from crossmount.transfer.cache import BlobCache, Incoming
from crossmount.transfer.concurrency import run_to_end
from crossmount.transfer.fetch import SLOWEST, FetchedBlob

PIECE_BYTES = 1024 * 1024
POLL_SECONDS = 0.05
STUCK_SECONDS = 30.0
"""How long another process that fetches a blob may write nothing before one goes past the cache."""


class CacheFailedError(CrossmountError):
    """The cache cannot serve a blob, which goes past it then. Never leaves the room."""


class CacheFetcher:
    """What one copy fetches into a cache.

    Args:
        cache: where to.
        observer: told once if the cache does not serve.
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
        self._told = False

    async def aclose(self) -> None:
        """Give up what is still on its way."""
        running = [filling.task for filling in self._running.values() if filling.task is not None]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def filling(self, blob: FetchedBlob) -> "_CacheFetch":
        """Return the filling that a blob comes by: the one that runs, or a new one."""
        digest = blob.descriptor.digest
        filling = self._running.get(digest)
        if filling is None or filling.ended:
            filling = self._running[digest] = _CacheFetch(self.cache, blob, self._now)
            filling.task = asyncio.create_task(self._run(filling))
        return filling

    def degrade(self, error: OSError) -> None:
        """Say once that the cache does not serve."""
        if not self._told:
            self._told = True
            self._observer(
                events.CacheDegraded(cause=f"{self.cache.folder}: {error.strerror or type(error).__name__}")
            )

    async def _run(self, filling: "_CacheFetch") -> None:
        digest = filling.blob.descriptor.digest
        try:
            await filling.run()
        finally:
            if self._running.get(digest) is filling:
                del self._running[digest]
        if isinstance(filling.trouble, OSError):
            self.degrade(filling.trouble)


@dataclass(slots=True, eq=False)
class CacheOrigin:
    """The cache, as where a blob comes from.

    Attributes:
        blob: the same blob past the cache.
    """

    fillings: CacheFetcher
    blob: FetchedBlob
    _was_wrong: bool = False

    @property
    def repository(self) -> Repository | None:
        """None: it is no repository."""
        return None

    def __str__(self) -> str:
        return f"the cache in {self.fillings.cache.folder}"

    async def read(self, descriptor: Descriptor, offset: int) -> AsyncGenerator[bytes]:
        """See `Origin`; where another image fetches it for both, and its sources are no help, ours are asked."""
        at = offset
        while at < descriptor.size:
            filling = self.fillings.filling(self.blob)
            try:
                with filling.being_read():
                    while at < descriptor.size:
                        data = await filling.piece(at)
                        at += len(data)
                        yield data
            except BlobUnavailableError:
                if filling.blob is self.blob:
                    raise
            except OSError as error:
                self.fillings.degrade(error)
                raise CacheFailedError(f"{self}: {error.strerror}") from error

    async def failed(self, descriptor: Descriptor, error: CrossmountError) -> None:
        """See `Origin`."""

    async def gave_wrong(self, descriptor: Descriptor) -> bool:
        """See `Origin`; a damaged file is removed, and fetched anew, once."""
        again, self._was_wrong = not self._was_wrong, True
        try:
            self.fillings.cache.discard(descriptor)
        except OSError as error:
            self.fillings.degrade(error)
            return False
        return again


@dataclass(slots=True, eq=False)
class _CacheFetch:
    """One blob that comes into the cache, or was there.

    Attributes:
        there: bytes that can be read.
        trouble: why no more will come.
        readers: who reads it now.
        ended: whether nothing more will come.
    """

    cache: BlobCache
    blob: FetchedBlob
    now: Callable[[], float]
    there: int = 0
    trouble: BaseException | None = None
    readers: int = 0
    ended: bool = False
    task: "asyncio.Task[None] | None" = None
    _fileno: int | None = None
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def run(self) -> None:
        """Bring it; whoever reads is told of what went wrong."""
        try:
            await self._bring()
        except (CrossmountError, OSError) as error:
            self.trouble = error
        except asyncio.CancelledError:
            self.trouble = CacheFailedError("the copy that fetched it has ended")
            raise
        finally:
            self.ended = True
            self.blob.let_go()
            await asyncio.shield(self._tell(self.there))
            self._close_if_done()

    async def piece(self, at: int) -> bytes:
        """Return bytes from `at` on, as soon as there are some."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.there > at or self.ended)
        if self.there > at and self._fileno is not None:
            wanted = min(self.there - at, PIECE_BYTES)
            data = await run_to_end(os.pread, self._fileno, wanted, at)
            if not data:
                raise CacheFailedError(f"blob {self.blob.descriptor.digest} was cut short in {self.cache.folder}")
            return data
        assert self.trouble is not None  # noqa: S101 what ended well is there
        if isinstance(self.trouble, OSError):
            raise CacheFailedError(f"{self.cache.folder}: {self.trouble.strerror}") from self.trouble
        raise self.trouble

    @contextmanager
    def being_read(self) -> Iterator[None]:
        """Keep its file open while somebody reads it."""
        self.readers += 1
        try:
            yield
        finally:
            self.readers -= 1
            self._close_if_done()

    async def _bring(self) -> None:
        descriptor = self.blob.descriptor
        if descriptor.size > self.cache.limit:
            raise CacheFailedError(f"blob {descriptor.digest} is larger than the cache may be")
        incoming = await self._first()
        if incoming is None:
            return
        self._fileno = incoming.fileno
        try:
            await self._fetch(incoming)
            await run_to_end(incoming.keep)
        except BaseException:
            incoming.unlink()  # whoever is reading it has it open still
            raise
        await self._tell(descriptor.size)

    async def _first(self) -> Incoming | None:
        """Wait until the blob is there (None), or nobody else fetches it."""
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
                await self._tell(descriptor.size)
                return None
            if incoming is not None:
                return incoming
            now, touched = self.now(), self.cache.touched(descriptor)
            if touched != last:  # by whatever clock
                last, seen = touched, now
            if now - seen > STUCK_SECONDS or now - began > STUCK_SECONDS + descriptor.size / SLOWEST:
                raise CacheFailedError(f"another process fetches {descriptor.digest} and does not get on")
            await asyncio.sleep(POLL_SECONDS)

    async def _fetch(self, incoming: Incoming) -> None:
        """Write the blob; the last bytes come only if all are right, and count only when all are on disk."""
        await self._make_room()
        at, piece = 0, bytearray()
        async with aclosing(self.blob.stream()) as parts:
            async for part in parts:
                piece += part
                if len(piece) >= PIECE_BYTES:
                    await run_to_end(incoming.write, bytes(piece), at)
                    at += len(piece)
                    piece.clear()
                    await self._tell(at)
        if piece:
            await run_to_end(incoming.write, bytes(piece), at)

    async def _make_room(self) -> None:
        since = self.now()
        while (is_room := await run_to_end(self.cache.make_room)) is None:
            if self.now() - since > STUCK_SECONDS:
                raise CacheFailedError(f"another process makes room in {self.cache.folder} and does not get on")
            await asyncio.sleep(POLL_SECONDS)
        if not is_room:
            raise CacheFailedError(f"{self.cache.folder} is full of blobs that are being fetched")

    def _close_if_done(self) -> None:
        """Close the file when nobody needs it any more."""
        if self.ended and not self.readers and self._fileno is not None:
            os.close(self._fileno)
            self._fileno = None

    async def _tell(self, there: int) -> None:
        async with self._changed:
            self.there = there
            self._changed.notify_all()
