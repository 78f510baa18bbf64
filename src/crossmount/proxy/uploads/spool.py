"""Uploads on local disk until their digest is known: bounded in total and by caller.

A spool file has no name (O_TMPFILE, or unlinked at once), so a killed proxy leaves no files.

A caller may have `SHARE` times as much as is still free: one alone gets three quarters of the spool, two get three
sevenths each, and the next caller always finds room.
"""

import os
import tempfile
from functools import partial
from pathlib import Path
from typing import IO

from crossmount._dataclass import dataclass
from crossmount.errors import InvalidInputError
from crossmount.proxy.uploads.spool_file import SpoolFile, SpoolFullError

SHARE = 3
"""How many times the free rest a caller may have."""


@dataclass(slots=True)
class _Owned:
    """What one caller has in the spool."""

    files: int = 0
    size: int = 0


def check_spool(folder: Path) -> None:
    """Check that uploads can be spooled in a folder, or in one that can be made. Nothing is left there.

    Raises:
        InvalidInputError: they cannot.
    """
    try:
        there = next(path for path in (folder, *folder.parents) if path.exists())
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        raise _unusable(folder, error) from error


def _unusable(folder: Path, error: OSError) -> InvalidInputError:
    return InvalidInputError(f"{folder}: uploads cannot be spooled here: {error.strerror}")


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
            raise _unusable(folder, error) from error

    def open(self, owner: str) -> SpoolFile:
        """Create a spool file for a caller.

        Raises:
            SpoolFullError: no file can be created, or there are too many.
        """
        owned = self._owned.get(owner, _Owned())
        if self._files_left <= 0 or owned.files + 1 > SHARE * self._files_left:
            raise SpoolFullError("too many uploads are spooled")
        try:
            spool = SpoolFile(
                self._make(), take=partial(self.take, owner), give_back=partial(self.give_back, owner)
            )
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
