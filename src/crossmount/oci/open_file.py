"""An open file of an image: regular, unchanged in size, and reached without links that came after its check."""

import errno
import os
import stat
import weakref
from pathlib import Path
from typing import BinaryIO, Self

from crossmount.errors import InvalidLayoutError

_FOLDER = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | getattr(os, "O_PATH", 0)
_FILE = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
"""A named pipe without a writer must not block the open; for a regular file O_NONBLOCK has no effect."""

_SWAPPED = {errno.ELOOP, errno.ENOTDIR}


class OpenFile:
    """A regular file that is open for reading; closed when nothing refers to it any more.

    A thread that still reads keeps it open, so a cancelled read never reads from another file's descriptor.

    Args:
        fd: the descriptor, which this object owns.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._close = weakref.finalize(self, os.close, fd)

    @classmethod
    def at(cls, path: Path, *, links: bool = True, size: int | None = None) -> Self:
        """Open a file.

        Args:
            path: the file; absolute without `links`.
            links: whether links are followed. Without, no part of `path` may be one: it was resolved before.
            size: the bytes that the file must have; None accepts any size.

        Raises:
            InvalidLayoutError: it is not a regular file, or was replaced since it was checked.
            OSError: it cannot be opened.
        """
        file = cls(os.open(path, _FILE) if links else _open_without_links(path))
        found = os.fstat(file._fd)
        if not stat.S_ISREG(found.st_mode):
            raise InvalidLayoutError(f"{path}: not a file")
        if size not in {None, found.st_size}:
            raise InvalidLayoutError(
                f"{path}: changed since it was checked: it has {found.st_size} bytes, it had {size}"
            )
        return file

    def buffered(self) -> BinaryIO:
        """Return a buffered file of the same bytes, at their start, to be closed; only one is used at a time."""
        os.lseek(self._fd, 0, os.SEEK_SET)
        return open(self._fd, "rb", closefd=False)

    def fileno(self) -> int:
        """Return the descriptor, which stays this object's own."""
        return self._fd

    @property
    def size(self) -> int:
        """The file's size in bytes, now."""
        return os.fstat(self._fd).st_size

    def read(self, size: int, start: int) -> bytes:
        """Return `size` bytes from the position `start`; fewer only at the end of the file."""
        parts = []
        while size and (data := os.pread(self._fd, size, start)):
            parts.append(data)
            size, start = size - len(data), start + len(data)
        return parts[0] if len(parts) == 1 else b"".join(parts)


def _open_without_links(path: Path) -> int:
    """Open an absolute path folder by folder, and follow no link."""
    folder = os.open(path.anchor, _FOLDER)
    try:
        for name in path.parts[1:-1]:
            below = os.open(name, _FOLDER, dir_fd=folder)
            os.close(folder)
            folder = below
        return os.open(path.name, _FILE | os.O_NOFOLLOW, dir_fd=folder)
    except OSError as error:
        if error.errno in _SWAPPED:
            raise InvalidLayoutError(
                f"{path}: replaced by a link while it was read, or a folder above it was: nothing of it is sent"
            ) from error
        raise
    finally:
        os.close(folder)
