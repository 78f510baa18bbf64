"""Tars that cannot be read in place, spooled to disk: from standard input, compressed, or from an engine.

A spooled tar has no name (O_TMPFILE, or unlinked at once): it is gone when nobody reads it any more, whatever ends
the process.
"""

import errno
import gzip
import io
import os
import select
import sys
import tempfile
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from crossmount.errors import CrossmountError, InvalidInputError, InvalidLayoutError, MissingExtraError
from crossmount.oci.blob import READ_BYTES
from crossmount.oci.layout_files import OpenFile

SPOOL_LIMIT = 20 * 1024**3
"""The most bytes of one spooled tar, unless the caller says otherwise."""

GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"

_HEAD_BYTES = 8
_CHECK_BYTES = 64 * 1024**2
"""The free space is checked each time that so many bytes were written, and so many must be left."""

_WINDOW_LOG_MAX = 27
"""The largest window of zstd, 128 MiB, which is what `zstd -d` takes too without further options."""

_POLL_MILLISECONDS = 200


class _Reader(Protocol):
    def read(self, size: int, /) -> bytes: ...


class ImageSpool:
    """Spools tars to disk.

    Args:
        limit: the most bytes of one tar, unpacked.
        folder: where to put it; by default `TMPDIR`, or else `/var/tmp`, which is on a disk.
    """

    def __init__(self, *, limit: int = SPOOL_LIMIT, folder: Path | None = None) -> None:
        self.limit = limit
        self.folder = folder or _default_folder()
        self._stopped = threading.Event()

    def stop(self) -> None:
        """End a read that is in progress in another thread."""
        self._stopped.set()

    def standard_input(self) -> OpenFile:
        """Spool the tar on standard input, plain or compressed.

        Raises:
            InvalidInputError: it is a terminal, or closed.
            InvalidLayoutError: it cannot be read or unpacked, is too long, or the disk is full.
        """
        try:
            fd = sys.stdin.fileno()
            is_terminal = os.isatty(fd)
        except (AttributeError, OSError, ValueError):
            raise InvalidInputError("standard input is closed: pipe the tar of an image into it") from None
        if is_terminal:
            raise InvalidInputError("standard input is a terminal: pipe the tar of an image into it")
        return self._spool(fd, where="standard input")

    def unpack(self, file: OpenFile, *, where: str) -> OpenFile:
        """Spool a compressed tar.

        Args:
            file: the tar.
            where: its name in errors.

        Raises:
            InvalidLayoutError: it cannot be read or unpacked, is too long, or the disk is full.
            MissingExtraError: the extra that unpacks zstd is not installed.
        """
        return self._spool(file.fileno(), where=where)

    def create(self, where: str) -> "SpooledTar":
        """Return an empty file for the tar `where`.

        Raises:
            InvalidLayoutError: it cannot be created.
        """
        return SpooledTar(self, where)

    def _spool(self, fd: int, *, where: str) -> OpenFile:
        spooled = self.create(where)
        with _readable(where):
            source = _Source(fd, self._stopped)
            with io.BufferedReader(source, READ_BYTES) as packed:
                reader = _unpacked(source.head, packed)
                while data := reader.read(READ_BYTES):
                    spooled.write(data)
        return spooled.finish()


class SpooledTar:
    """A tar that is being written to disk.

    Args:
        spool: its limit and its folder.
        where: the tar's name in errors.
    """

    def __init__(self, spool: ImageSpool, where: str) -> None:
        self._spool = spool
        self._where = where
        self._size = 0
        self._checked = -1
        try:
            with tempfile.TemporaryFile(dir=spool.folder, buffering=0) as file:
                self._file = OpenFile(os.dup(file.fileno()))
        except OSError as error:
            raise self._no_room(error.strerror or "") from error

    def write(self, data: bytes) -> None:
        """Append bytes.

        Raises:
            InvalidLayoutError: there are more than the limit, or the disk is full.
        """
        self._size += len(data)
        if self._size > self._spool.limit:
            raise InvalidLayoutError(
                f"{self._where}: more than {self._spool.limit} bytes, unpacked: "
                f"raise --spool-limit if that is right"
            )
        if self._checked < self._size // _CHECK_BYTES:
            self._checked = self._size // _CHECK_BYTES
            disk = os.fstatvfs(self._file.fileno())
            if disk.f_bavail * disk.f_frsize < _CHECK_BYTES:
                raise self._no_room("less than 64 MiB are free")
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._file.fileno(), rest) :]
        except OSError as error:
            raise self._no_room(os.strerror(error.errno or errno.EIO)) from error

    def finish(self) -> OpenFile:
        """Return the file for reading."""
        return self._file

    def _no_room(self, cause: str) -> InvalidLayoutError:
        return InvalidLayoutError(
            f"{self._where}: cannot be spooled in {self._spool.folder}: {cause}: "
            f"set TMPDIR to a folder with more room"
        )


class _Source(io.RawIOBase):
    """A descriptor that is read until another thread stops it.

    Attributes:
        head: its first bytes, which are read again.
    """

    def __init__(self, fd: int, stopped: threading.Event) -> None:
        self._fd = fd
        self._stopped = stopped
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)
        self.head = b""
        while len(self.head) < _HEAD_BYTES and (data := self._next(_HEAD_BYTES - len(self.head))):
            self.head += data
        self._again = self.head

    def readable(self) -> bool:
        """Return True, as `io` demands."""
        return True

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]  # a buffer of BufferedReader
        """Read some bytes into `buffer`; return how many, 0 at the end."""
        data = self._again[: len(buffer)] or self._next(len(buffer))
        self._again = self._again[len(data) :]
        buffer[: len(data)] = data
        return len(data)

    def _next(self, size: int) -> bytes:
        while not self._poll.poll(_POLL_MILLISECONDS):
            if self._stopped.is_set():
                break
        if self._stopped.is_set():
            raise InvalidLayoutError("the reading was stopped")
        return os.read(self._fd, size)


def _unpacked(head: bytes, packed: BinaryIO) -> _Reader:
    """Return a reader of the unpacked bytes."""
    if head.startswith(GZIP):
        return gzip.GzipFile(fileobj=packed)
    return _zstd_reader(packed) if head.startswith(ZSTD) else packed


def _zstd_reader(packed: BinaryIO) -> _Reader:
    """Return a reader of zstd: Python's own from 3.14 on, else that of the extra.

    Raises:
        MissingExtraError: there is none.
    """
    if sys.version_info >= (3, 14):
        from compression import zstd  # noqa: PLC0415 where it exists

        options = {zstd.DecompressionParameter.window_log_max: _WINDOW_LOG_MAX}
        return zstd.ZstdFile(packed, options=options)
    try:
        zstandard: Any = import_module("zstandard")  # an extra: type checkers need not find it
    except ImportError:
        raise MissingExtraError(
            "a tar that zstd has packed: pip install 'crossmount[zstd]' to read it, or unpack it first with unzstd"
        ) from None
    unpacker = zstandard.ZstdDecompressor(max_window_size=2**_WINDOW_LOG_MAX)
    reader: _Reader = unpacker.stream_reader(packed, read_across_frames=True, closefd=False)
    return reader


@contextmanager
def _readable(where: str) -> Iterator[None]:
    """Turn the errors of reading and unpacking into ours."""
    try:
        yield
    except CrossmountError:
        raise
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InvalidLayoutError(f"{where}: damaged or cut off: {error}") from error
    except OSError as error:
        raise InvalidLayoutError(f"{where}: {error.strerror or error}") from error
    except Exception as error:
        if "zstd" not in type(error).__name__.lower():
            raise
        raise InvalidLayoutError(f"{where}: damaged or cut off: {error}") from error


def _default_folder() -> Path:
    """Return a folder on a disk: `/tmp` is in memory on many systems."""
    if "TMPDIR" not in os.environ and os.access("/var/tmp", os.W_OK):  # noqa: S108 the file has no name
        return Path("/var/tmp")  # noqa: S108
    return Path(tempfile.gettempdir())
