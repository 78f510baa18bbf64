"""The file of one spooled upload: bytes are appended while another task sends them on, and hashed on the way."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable, Sequence
from typing import IO

from crossmount._dataclass import dataclass
from crossmount._tasks import collect, run_to_end
from crossmount.errors import InvalidLayoutError
from crossmount.oci import Descriptor, Digest
from crossmount.oci.blob import READ_BYTES

_BATCH = 1024 * 1024
_SMALL_PIECE = 32 * 1024
"""Smaller pieces are joined."""

FOLLOW_SECONDS = 0.25
"""How long appending waits for a follower to catch up; a slower one reads from disk."""


class SpoolFullError(Exception):
    """The limit, or a caller's share, is reached, or the disk is full. What was appended before can be read."""


class SpoolFile:
    """The file of one upload: one task at a time appends to it, while another may follow it.

    Args:
        file: the open file.
        take: reserves bytes of the spool; it raises `SpoolFullError`.
        give_back: releases the file and its reserved bytes.

    Attributes:
        prefix: the hash of its first MiB, as soon as that is there; None before.
        hashes: whether bytes are hashed while they arrive; otherwise `matches` reads them again.
    """

    def __init__(self, file: IO[bytes], *, take: Callable[[int], None], give_back: Callable[[int], None]) -> None:
        self._file = file
        self._take = take
        self._give_back = give_back
        self._buffer: list[bytes | bytearray] = []
        self._buffered = 0
        self._writing: asyncio.Future[None] | None = None
        self._being_written: list[bytes | bytearray] = []
        self._in_flight = 0
        self._written = 0
        self._reserved = 0
        self._hasher = hashlib.sha256()
        self._hashed = 0
        self.hashes = True
        self._grown = asyncio.Event()
        self._followed: int | None = None
        self._caught_up = asyncio.Event()
        self.prefix: bytes | None = None

    @property
    def size(self) -> int:
        """Bytes appended so far."""
        return self._written + self._in_flight + self._buffered

    async def append(self, data: bytes) -> None:
        """Append bytes; the last of them may stay in memory until `flush`.

        Raises:
            SpoolFullError: the limit is reached, or the disk is full; `data` can be read all the same.
        """
        last = self._buffer[-1] if self._buffer else None
        if len(data) >= _SMALL_PIECE:
            self._buffer.append(data)
        elif isinstance(last, bytearray) and len(last) < _SMALL_PIECE:
            last += data
        else:
            self._buffer.append(bytearray(data))
        self._buffered += len(data)
        if self._buffered >= _BATCH:
            await self._settle()
            await self._wait_for_follower()
            self._begin()

    async def flush(self) -> None:
        """Write all bytes to disk.

        Raises:
            SpoolFullError: the limit is reached, or the disk is full.
        """
        await self._settle()
        if self._buffer:
            self._begin()
            await self._settle()

    async def read(self, offset: int = 0) -> AsyncIterator[bytes]:
        """Yield all bytes from `offset` on, also those that are still in memory."""
        end = self._written
        while offset < end:
            data = await asyncio.to_thread(os.pread, self._file.fileno(), min(READ_BYTES, end - offset), offset)
            if not data:
                raise InvalidLayoutError("a spooled upload ends early")
            offset += len(data)
            yield data
        tail = b"".join([*self._being_written, *self._buffer])
        if offset - end < len(tail):
            yield tail[offset - end :]

    async def follow(self, end: Callable[[], int | None]) -> AsyncIterator[bytes]:
        """Yield the bytes while they are appended; one task at a time.

        Appending waits for a follower that is nearly as fast, so that it finds the bytes in memory. Else whoever
        appends would be done early, and then wait while the follower reads from disk.

        Args:
            end: returns the offset at which to end; None while more bytes may come. Call `wake` after a change.
        """
        offset = self._followed = 0
        while True:
            self._grown.clear()
            last = end()
            limit = self._written + self._in_flight
            limit = limit if last is None else min(last, limit)
            if offset < min(limit, self._written):
                size = min(READ_BYTES, min(limit, self._written) - offset)
                parts = [await run_to_end(os.pread, self._file.fileno(), size, offset)]
            elif offset < limit:
                parts = _cut(self._being_written, offset - self._written, limit - self._written)
            elif last is not None:
                return
            else:
                await self._grown.wait()
                continue
            for data in parts:
                if not data:
                    raise InvalidLayoutError("a spooled upload ends early")
                offset += len(data)
                yield data
                self._note_followed(offset)

    def unfollow(self) -> None:
        """Let nothing wait for the follower any more."""
        self._followed = None
        self._caught_up.set()

    def wake(self) -> None:
        """Let the follower look again at where it ends."""
        self._grown.set()

    async def matches(self, digest: Digest) -> bool:
        """Return whether the flushed bytes have this digest."""
        is_usual = digest.algorithm == "sha256"
        hasher = self._hasher if is_usual else digest.hasher()
        async for data in self.read(self._hashed if is_usual else 0):
            await asyncio.to_thread(hasher.update, data)
            if is_usual:
                self._hashed += len(data)
        return digest.matches(hasher)

    def close(self) -> None:
        """Close the file and release its bytes. Idempotent."""
        if not self._file.closed:
            self._file.close()
            self._give_back(self._reserved)

    async def aclose(self) -> None:
        """Close the file after the write under way."""
        if self._writing is not None:
            await asyncio.wait([self._writing])
        self.close()

    def _note_followed(self, offset: int) -> None:
        if self._followed is not None:
            self._followed = offset
        if offset >= self._written:
            self._caught_up.set()

    async def _wait_for_follower(self) -> None:
        """Wait until the follower has all bytes that are on disk; if it takes too long, never again."""
        if self._followed is None or self._followed >= self._written:
            return
        self._caught_up.clear()
        try:
            async with asyncio.timeout(FOLLOW_SECONDS):
                await self._caught_up.wait()
        except TimeoutError:
            self.unfollow()

    def _begin(self) -> None:
        """Start to write the buffer in a thread, while the next bytes arrive."""
        self._take(self._buffered)
        self._reserved += self._buffered
        self._being_written, self._in_flight = self._buffer, self._buffered
        self._buffer, self._buffered = [], 0
        if not self._written and self._in_flight >= _BATCH:
            self.prefix = _hash_of(_cut(self._being_written, 0, _BATCH))
        self._grown.set()
        self._writing = asyncio.ensure_future(asyncio.to_thread(self._write, self._being_written, self._written))
        self._writing.add_done_callback(collect)

    async def _settle(self) -> None:
        if self._writing is None:
            return
        try:
            await asyncio.shield(self._writing)
        except OSError as error:
            raise SpoolFullError(error.strerror or "the disk does not take it") from error
        self._writing = None
        self._written += self._in_flight
        self._being_written, self._in_flight = [], 0

    def _write(self, pieces: Sequence[bytes | bytearray], offset: int) -> None:
        size = sum(map(len, pieces))
        done = os.pwritev(self._file.fileno(), pieces, offset)
        while done < size:
            done += os.pwritev(self._file.fileno(), _cut(pieces, done, size), offset + done)
        if self.hashes:
            for piece in pieces:
                self._hasher.update(piece)
            self._hashed += size


def _cut(pieces: Sequence[bytes | bytearray], start: int, end: int) -> list[bytes]:
    """Return the bytes from `start` to `end` of all pieces together, as pieces."""
    cut, at = [], 0
    for piece in pieces:
        low, high = max(0, start - at), min(len(piece), end - at)
        if low < high:
            cut.append(bytes(piece) if (low, high) == (0, len(piece)) else bytes(piece[low:high]))
        at += len(piece)
    return cut


def _hash_of(pieces: Sequence[bytes]) -> bytes:
    hasher = hashlib.sha256()
    for piece in pieces:
        hasher.update(piece)
    return hasher.digest()


@dataclass(frozen=True, slots=True)
class SpooledBlob:
    """A spooled upload as a blob that can be sent more than once."""

    descriptor: Descriptor
    spool: SpoolFile

    def stream(self, offset: int = 0) -> AsyncIterator[bytes]:
        """Yield the bytes from `offset` on."""
        return self.spool.read(offset)
