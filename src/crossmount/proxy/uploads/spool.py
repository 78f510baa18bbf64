"""Uploads on local disk until their digest is known: bounded in total, and hashed while they arrive.

A spool file has no name (O_TMPFILE, or unlinked at once), so a killed proxy leaves no files.
"""

import asyncio
import hashlib
import os
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from crossmount.errors import InvalidInputError, InvalidLayoutError
from crossmount.oci import Descriptor, Digest
from crossmount.oci.blob_reading import READ_BYTES

_BATCH = 1024 * 1024


class SpoolFullError(Exception):
    """The limit is reached, or the disk is full. The bytes that were appended before can still be read."""


class SpoolFolder:
    """A folder for spool files, with a limit on all of them together.

    Args:
        folder: the folder, which is created if it does not exist.
        limit: the most bytes of all files together.
        files: the most files at once; by default half of the files that this process may open.

    Attributes:
        taken: bytes of all files together.

    Raises:
        InvalidInputError: the folder is not writable.
    """

    def __init__(self, folder: Path, *, limit: int, files: int | None = None) -> None:
        self._folder = folder
        self._limit = limit
        self._files_left = os.sysconf("SC_OPEN_MAX") // 2 if files is None else files
        self.taken = 0
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._make().close()
        except OSError as error:
            raise InvalidInputError(f"{folder}: uploads cannot be spooled here: {error.strerror}") from error

    def open(self) -> "SpoolFile":
        """Create a spool file.

        Raises:
            SpoolFullError: no file can be created, or there are too many.
        """
        if self._files_left <= 0:
            raise SpoolFullError("too many uploads are spooled")
        try:
            spool = SpoolFile(self, self._make())
        except OSError as error:
            raise SpoolFullError(error.strerror) from error
        self._files_left -= 1
        return spool

    def take(self, size: int) -> None:
        """Reserve `size` bytes.

        Raises:
            SpoolFullError: the limit would be exceeded.
        """
        if self.taken + size > self._limit:
            raise SpoolFullError("the spool's limit is reached")
        self.taken += size

    def give_back(self, size: int) -> None:
        """Release a file and its `size` reserved bytes."""
        self._files_left += 1
        self.taken -= size

    def _make(self) -> IO[bytes]:
        return tempfile.TemporaryFile(dir=self._folder, buffering=0)


class SpoolFile:
    """The file of one upload: one task at a time appends to it, then it is read."""

    def __init__(self, area: SpoolFolder, file: IO[bytes]) -> None:
        self._area = area
        self._file = file
        self._buffer = bytearray()
        self._writing: asyncio.Future[None] | None = None
        self._being_written = b""
        self._written = 0
        self._reserved = 0
        self._hasher = hashlib.sha256()

    @property
    def size(self) -> int:
        """Bytes appended so far."""
        return self._written + len(self._being_written) + len(self._buffer)

    async def append(self, data: bytes) -> None:
        """Append bytes; the last of them may stay in memory until `flush`.

        Raises:
            SpoolFullError: the limit is reached, or the disk is full; `data` can be read all the same.
        """
        self._buffer += data
        if len(self._buffer) >= _BATCH:
            await self._settle()
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
        tail = bytes(self._being_written) + bytes(self._buffer)
        if offset - end < len(tail):
            yield tail[offset - end :]

    async def matches(self, digest: Digest) -> bool:
        """Return whether the flushed bytes have this digest."""
        if digest.algorithm == "sha256":
            return digest.matches(self._hasher)
        hasher = digest.hasher()
        async for data in self.read():
            await asyncio.to_thread(hasher.update, data)
        return digest.matches(hasher)

    def close(self) -> None:
        """Close the file and release its bytes. Idempotent."""
        if not self._file.closed:
            self._file.close()
            self._area.give_back(self._reserved)

    async def aclose(self) -> None:
        """Close the file after the write under way."""
        if self._writing is not None:
            await asyncio.wait([self._writing])
        self.close()

    def _begin(self) -> None:
        """Start to write the buffer in a thread, while the next bytes arrive."""
        self._area.take(len(self._buffer))
        self._reserved += len(self._buffer)
        self._being_written = bytes(self._buffer)
        self._buffer.clear()
        self._writing = asyncio.ensure_future(asyncio.to_thread(self._write, self._being_written, self._written))

    async def _settle(self) -> None:
        if self._writing is None:
            return
        try:
            await asyncio.shield(self._writing)
        except OSError as error:
            raise SpoolFullError(error.strerror or "the disk does not take it") from error
        self._writing = None
        self._written += len(self._being_written)
        self._being_written = b""

    def _write(self, data: bytes, offset: int) -> None:
        view = memoryview(data)
        while view:
            count = os.pwrite(self._file.fileno(), view, offset)
            view, offset = view[count:], offset + count
        self._hasher.update(data)


@dataclass(frozen=True, slots=True)
class SpooledBlob:
    """A spooled upload as a blob that can be sent more than once."""

    descriptor: Descriptor
    spool: SpoolFile

    def stream(self, offset: int = 0) -> AsyncIterator[bytes]:
        """Yield the bytes from `offset` on."""
        return self.spool.read(offset)
