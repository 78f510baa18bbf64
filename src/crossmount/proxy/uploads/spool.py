"""Uploads on local disk until their digest is known: bounded in all, hashed as they come, gone with the process.

A spooled upload is a file without a name (O_TMPFILE, or unlinked at once), so that a killed proxy leaves nothing.
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
from crossmount.oci.blob import READ_BYTES

_BATCH = 1024 * 1024


class SpoolFullError(Exception):
    """No room: the limit is reached, or the disk is full. What was appended before is still readable."""


class SpoolFolder:
    """A folder for uploads with a limit on all of them together.

    Args:
        folder: where; it is made if need be.
        limit: bytes, all uploads together.
        files: how many at once, each being an open file; by default half of what this process may open.

    Raises:
        InvalidInputError: nothing can be written there.
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
        """Begin an upload.

        Raises:
            SpoolFullError: no file can be made, or too many are there.
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
        """Reserve room.

        Raises:
            SpoolFullError: there is none.
        """
        if self.taken + size > self._limit:
            raise SpoolFullError("the spool's limit is reached")
        self.taken += size

    def give_back(self, size: int) -> None:
        """Return an upload's file, and its room."""
        self._files_left += 1
        self.taken -= size

    def _make(self) -> IO[bytes]:
        return tempfile.TemporaryFile(dir=self._folder, buffering=0)


class SpoolFile:
    """One upload: appended to by one task at a time, then read."""

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
        """Add bytes; the last of them may still be in memory.

        Raises:
            SpoolFullError: no room; `data` was taken all the same, and is read back with the rest.
        """
        self._buffer += data
        if len(self._buffer) >= _BATCH:
            await self._settle()
            self._begin()

    async def flush(self) -> None:
        """Bring all to disk.

        Raises:
            SpoolFullError: no room.
        """
        await self._settle()
        if self._buffer:
            self._begin()
            await self._settle()

    async def read(self, offset: int = 0) -> AsyncIterator[bytes]:
        """Yield everything from `offset` on, what is not on disk included."""
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
        """Tell whether the flushed bytes have this digest."""
        if digest.algorithm == "sha256":
            return digest.matches(self._hasher)
        hasher = digest.hasher()
        async for data in self.read():
            await asyncio.to_thread(hasher.update, data)
        return digest.matches(hasher)

    def close(self) -> None:
        """Let go of the file and its room; closing again changes nothing."""
        if not self._file.closed:
            self._file.close()
            self._area.give_back(self._reserved)

    async def aclose(self) -> None:
        """Close once nothing is written any more."""
        if self._writing is not None:
            await asyncio.wait([self._writing])
        self.close()

    def _begin(self) -> None:
        """Start to write the buffer in a thread, while the next bytes are awaited."""
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
    """A spooled upload as a blob that can be sent as often as needed."""

    descriptor: Descriptor
    spool: SpoolFile

    def stream(self, offset: int = 0) -> AsyncIterator[bytes]:
        """Yield the bytes from `offset` on."""
        return self.spool.read(offset)
