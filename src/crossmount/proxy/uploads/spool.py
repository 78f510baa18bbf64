"""Uploads on local disk until their digest is known: bounded in total and by caller, and hashed while they arrive.

A spool file has no name (O_TMPFILE, or unlinked at once), so a killed proxy leaves no files.

A caller may have `SHARE` times as much as is still free: one alone gets three quarters of the spool, two get three
sevenths each, and the next caller always finds room.
"""

import asyncio
import hashlib
import os
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO

from crossmount._dataclass import dataclass
from crossmount._tasks import collect
from crossmount.errors import InvalidInputError, InvalidLayoutError
from crossmount.oci import Descriptor, Digest
from crossmount.oci.blob import READ_BYTES

_BATCH = 1024 * 1024

SHARE = 3
"""How many times the free rest a caller may have."""


@dataclass(slots=True)
class _Owned:
    """What one caller has in the spool."""

    files: int = 0
    size: int = 0


class SpoolFullError(Exception):
    """The limit, or a caller's share, is reached, or the disk is full. What was appended before can be read."""


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
        self._owned: dict[str, _Owned] = {}
        self.taken = 0
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._make().close()
        except OSError as error:
            raise InvalidInputError(f"{folder}: uploads cannot be spooled here: {error.strerror}") from error

    def open(self, owner: str) -> "SpoolFile":
        """Create a spool file for a caller.

        Raises:
            SpoolFullError: no file can be created, or there are too many.
        """
        owned = self._owned.get(owner, _Owned())
        if self._files_left <= 0 or owned.files + 1 > SHARE * self._files_left:
            raise SpoolFullError("too many uploads are spooled")
        try:
            spool = SpoolFile(self, self._make(), owner)
        except OSError as error:
            raise SpoolFullError(error.strerror) from error
        self._files_left -= 1
        owned.files += 1
        self._owned[owner] = owned
        return spool

    def take(self, owner: str, size: int) -> None:
        """Reserve `size` bytes for a caller.

        Raises:
            SpoolFullError: the limit, or the caller's share, would be exceeded.
        """
        owned, free = self._owned[owner], self._limit - self.taken - size
        if free < 0 or owned.size + size > SHARE * free:
            raise SpoolFullError("the spool's limit is reached")
        self.taken += size
        owned.size += size

    def give_back(self, owner: str, size: int) -> None:
        """Release a caller's file and its `size` reserved bytes."""
        owned = self._owned[owner]
        self._files_left += 1
        self.taken -= size
        owned.files -= 1
        owned.size -= size
        if not owned.files:
            del self._owned[owner]

    def _make(self) -> IO[bytes]:
        return tempfile.TemporaryFile(dir=self._folder, buffering=0)


class SpoolFile:
    """The file of one upload: one task at a time appends to it, then it is read."""

    def __init__(self, area: SpoolFolder, file: IO[bytes], owner: str) -> None:
        self._area = area
        self._owner = owner
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
            self._area.give_back(self._owner, self._reserved)

    async def aclose(self) -> None:
        """Close the file after the write under way."""
        if self._writing is not None:
            await asyncio.wait([self._writing])
        self.close()

    def _begin(self) -> None:
        """Start to write the buffer in a thread, while the next bytes arrive."""
        self._area.take(self._owner, len(self._buffer))
        self._reserved += len(self._buffer)
        self._being_written = bytes(self._buffer)
        self._buffer.clear()
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
