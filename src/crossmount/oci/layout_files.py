"""The files of an image layout, wherever they lie: a name in, a place of bytes out."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from crossmount.errors import InvalidLayoutError


@dataclass(frozen=True, slots=True)
class Extent:
    """Where a file's bytes are.

    Attributes:
        path: the file itself, or the archive that holds it.
        start: where in `path` its first byte is.
        size: how many bytes it has.
    """

    path: Path
    start: int
    size: int


class LayoutFiles(Protocol):
    """The files of one layout."""

    @property
    def where(self) -> str:
        """What to call the layout in an error."""
        ...

    def find(self, name: str) -> Extent | None:
        """Return where the file `name` (`blobs/sha256/…`) is, None if there is none.

        Raises:
            InvalidLayoutError: there is something under that name that cannot be read as a file.
        """
        ...

    def folder_with(self, name: str) -> str | None:
        """Return a folder inside that holds the file `name`, for an error that helps."""
        ...


@dataclass(frozen=True, slots=True)
class DirectoryFiles:
    """A layout that is a directory; `root` has no symbolic link left in it."""

    root: Path

    @classmethod
    def open(cls, path: Path) -> "DirectoryFiles":
        """Find the directory.

        Raises:
            InvalidLayoutError: it cannot be reached.
        """
        with reading(path):
            return cls(path.resolve(strict=True))

    @property
    def where(self) -> str:
        """The directory."""
        return str(self.root)

    def find(self, name: str) -> Extent | None:
        """Find a file; links are followed as long as they stay inside."""
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
        with reading(path):  # a pipe in its place must not be opened: that would wait for a writer
            if not stat.S_ISREG(real.stat().st_mode):
                raise InvalidLayoutError(f"{path}: not a file")
            with real.open("rb", buffering=0) as file:
                return Extent(real, 0, os.fstat(file.fileno()).st_size)

    def folder_with(self, name: str) -> str | None:
        """Look one level down."""
        with reading(self.root):
            return next((folder.parent.name for folder in sorted(self.root.glob(f"*/{name}"))), None)


def read(files: LayoutFiles, name: str, *, limit: int) -> bytes | None:
    """Return a small file's bytes, None if there is none.

    Args:
        files: the layout.
        name: the file.
        limit: how many bytes it may have.

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
    """Return the bytes of a file that is known to be small.

    Raises:
        InvalidLayoutError: it cannot be read, or has become shorter.
    """
    with reading(extent.path), extent.path.open("rb") as file:
        file.seek(extent.start)
        content = file.read(extent.size)
    if len(content) != extent.size:
        raise InvalidLayoutError(f"{what} ends {extent.size - len(content)} bytes early")
    return content


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn the operating system's errors into ours."""
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links is a RuntimeError, a NUL a ValueError
        if isinstance(error, InvalidLayoutError):
            raise
        cause = error.strerror if isinstance(error, OSError) else str(error)
        raise InvalidLayoutError(f"{path}: {cause}") from error
