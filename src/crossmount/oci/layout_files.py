"""The files of an image layout, in a directory or an archive: by name, where their bytes are.

A file is opened once, and only if it is regular, has its size, and no link leads to it that came after its check.
"""

import errno
import os
import stat
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol, Self

from crossmount._dataclass import dataclass
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


@dataclass(frozen=True, slots=True)
class Extent:
    """The position of a file's bytes.

    Attributes:
        path: the file itself, or the archive that it is in.
        start: the position of its first byte in `path`.
        size: its size in bytes.
        checked_size: the size of the file at `path`, which has no links in it; None if that is not checked.
        file: the file at `path` itself, if it has no path.
    """

    path: Path
    start: int
    size: int
    checked_size: int | None = None
    file: OpenFile | None = None

    def open(self) -> OpenFile:
        """Open the file.

        Raises:
            InvalidLayoutError: it is not the file that was checked.
            OSError: it cannot be opened.
        """
        return self.file or OpenFile.at(self.path, links=self.checked_size is None, size=self.checked_size)


class LayoutFiles(Protocol):
    """The files of one layout."""

    @property
    def where(self) -> str:
        """The layout's name in errors."""
        ...

    def find(self, name: str) -> Extent | None:
        """Return the position of the file `name` (`blobs/sha256/…`), or None if there is none.

        Raises:
            InvalidLayoutError: the name exists, and is not a readable file.
        """
        ...

    def folder_with(self, name: str) -> str | None:
        """Return a folder in the layout that has the file `name`, for a hint in an error."""
        ...


@dataclass(frozen=True, slots=True)
class DirectoryFiles:
    """A layout in a directory.

    Attributes:
        root: the directory, with all symbolic links resolved.
    """

    root: Path

    @classmethod
    def open(cls, path: Path) -> Self:
        """Return the files of a layout's directory.

        Raises:
            InvalidLayoutError: the directory cannot be reached.
        """
        with reading(path):
            return cls(path.resolve(strict=True))

    @property
    def where(self) -> str:
        """The directory."""
        return str(self.root)

    def find(self, name: str) -> Extent | None:
        """Return the position of a file, or None; links are followed inside the layout.

        Raises:
            InvalidLayoutError: it is not a readable file, or a link out of the layout.
        """
        path = self.root / name
        try:
            with reading(path):
                real = path.resolve(strict=True)
        except InvalidLayoutError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return None
            raise
        if not real.is_relative_to(self.root):
            raise InvalidLayoutError(
                f"{path}: a link that leads out of the layout: copy the layout with cp -rL to have it whole"
            )
        with reading(path):
            size = OpenFile.at(real, links=False).size
            return Extent(real, 0, size, checked_size=size)

    def folder_with(self, name: str) -> str | None:
        """Return a folder one level down that has the file `name`."""
        with reading(self.root):
            return next((folder.parent.name for folder in sorted(self.root.glob(f"*/{name}"))), None)


def read(files: LayoutFiles, name: str, *, limit: int) -> bytes | None:
    """Return a small file's bytes, or None if there is no such file.

    Args:
        files: the layout.
        name: the file's name.
        limit: the most bytes that it may have.

    Raises:
        InvalidLayoutError: it is too large, or cannot be read.
    """
    extent = files.find(name)
    if extent is None:
        return None
    if extent.size > limit:
        raise InvalidLayoutError(f"{files.where}: {name} has {extent.size} bytes, more than {limit}")
    return read_extent(extent, what=f"{files.where}: {name}")


def read_extent(extent: Extent, *, what: str) -> bytes:
    """Return the bytes of a small file.

    Args:
        extent: the file's position.
        what: its name in errors.

    Raises:
        InvalidLayoutError: it cannot be read, or has become shorter.
    """
    with reading(extent.path):
        content = extent.open().read(extent.size, extent.start)
    if len(content) != extent.size:
        raise InvalidLayoutError(f"{what} ends {extent.size - len(content)} bytes early")
    return content


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn the operating system's errors into an InvalidLayoutError that names the path."""
    try:
        yield
    except (
        OSError,
        RuntimeError,
        ValueError,
    ) as error:  # a loop of links raises RuntimeError, a NUL byte ValueError
        if isinstance(error, InvalidLayoutError):
            raise
        cause = error.strerror if isinstance(error, OSError) else str(error)
        raise InvalidLayoutError(f"{path}: {cause}") from error
