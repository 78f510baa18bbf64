"""The blob cache: a folder that is an image layout, bounded, and shared by as many processes as like.

    crossmount-cache                                    made first: it tells a cache from somebody's layout
    oci-layout, index.json, blobs/<algorithm>/<hex>     an image layout (image specification, image-layout.md)
    incoming/<algorithm>-<hex>                          what is being fetched; whoever fetches it holds its lock
    lock                                                held while room is made

A blob comes into `blobs` whole, verified and on disk, by one rename. Locks are flocks, which end with their
process: what a killed one left in `incoming` belongs to nobody, and the next who looks takes or removes it.

Whoever else may write to the folder can spoil the cache, no more: no link is followed, nothing is waited for
without end, what the cache did not name is left alone, and the bytes are checked by whoever reads them.
"""

import errno
import fcntl
import json
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from crossmount.errors import InvalidInputError
from crossmount.oci import Descriptor
from crossmount.oci.descriptor import OCI_INDEX
from crossmount.oci.layout import LAYOUT_VERSION

DEFAULT_LIMIT = 10 * 1024**3

MARKER = "crossmount-cache"
"""The file that tells a cache from somebody's image layout, whose blobs are not ours to remove."""

_NOT_OURS = "not a cache of ours"

_OPEN = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # nor wait for the other end of a pipe
_ENCODED = {"sha256": r"[0-9a-f]{64}", "sha512": r"[0-9a-f]{128}"}
_INCOMING = re.compile("|".join(f"{algorithm}-{encoded}" for algorithm, encoded in _ENCODED.items()))


@dataclass(frozen=True, slots=True)
class BlobCache:
    """A local cache of blobs, through which a layer crosses from one registry to another once.

    It is used by whatever is given it, and safe to use from many processes. All methods block for a few calls of
    the system, and raise OSError: then blobs go past the cache.

    Attributes:
        folder: made when it is first needed.
        limit: bytes that it may have; what was not used for the longest time leaves first.
    """

    folder: Path
    limit: int = DEFAULT_LIMIT

    def __init__(self, folder: str | Path, *, limit: int = DEFAULT_LIMIT) -> None:
        object.__setattr__(self, "folder", Path(folder))
        object.__setattr__(self, "limit", limit)

    def check(self) -> None:
        """See that the folder is a cache or may become one: it is absent, empty, or has the mark of a cache.

        Raises:
            InvalidInputError: it is somebody's, and we would remove what is in it.
        """
        with suppress(OSError):  # one that cannot be read is gone past when it is used
            if self._is_anothers():
                raise InvalidInputError(f"{self.folder}: {_NOT_OURS}: give an empty or absent folder")

    def open(self, descriptor: Descriptor) -> int | None:
        """Return a file descriptor of a blob, which counts as used now; None if it is not there.

        The bytes have the right size; whether they are the right ones, whoever reads them checks.
        """
        self._check_folders()
        try:
            fileno = os.open(self._blob(descriptor), os.O_RDONLY | _OPEN)
        except FileNotFoundError:
            return None
        state = os.fstat(fileno)
        if state.st_size != descriptor.size or not stat.S_ISREG(state.st_mode):
            os.close(fileno)
            return None  # it stays until it is replaced: it may be the descriptor that lies
        with suppress(OSError):  # of another user: it is as old as it looks
            os.utime(fileno)
        return fileno

    def begin(self, descriptor: Descriptor) -> "Incoming | None":
        """Begin to fetch a blob; None while another does."""
        self._make()
        return Incoming.begin(self._incoming(descriptor), self._blob(descriptor), descriptor.size)

    def discard(self, descriptor: Descriptor) -> None:
        """Remove a blob that is not what it should be."""
        self._blob(descriptor).unlink(missing_ok=True)

    def touched(self, descriptor: Descriptor) -> float | None:
        """Return when the one who fetches a blob last wrote to it (epoch seconds); None if nobody does."""
        try:
            return self._incoming(descriptor).stat().st_mtime
        except FileNotFoundError:
            return None

    def make_room(self) -> bool | None:
        """Remove what was not used for the longest time until the limit holds, what is incoming included.

        Returns:
            Whether it holds now, None while another makes room; if what is incoming alone is too much nothing is
            removed.
        """
        self._check_folders()
        with _locked(self.folder / "lock") as is_ours:
            if not is_ours:
                return None
            self._sweep()
            room = self.limit - sum(size for _, size, _ in _files(self.folder / "incoming", _INCOMING))
            if room < 0:
                return False
            kept = sorted(
                file
                for algorithm, encoded in _ENCODED.items()
                for file in _files(self.folder / "blobs" / algorithm, re.compile(encoded))
            )
            over = sum(size for _, size, _ in kept) - room
            for _, size, path in kept:
                if over <= 0:
                    break
                path.unlink(missing_ok=True)
                over -= size
            return True

    def _sweep(self) -> None:
        """Remove what killed processes left."""
        for _, _, path in _files(self.folder / "incoming", _INCOMING):
            left = Incoming.take(path)
            if left is not None:
                left.discard()

    def _make(self) -> None:
        """Make the folder a cache, unless it is one: its mark first, so that it is never seen without."""
        self._check_folders()
        self.folder.mkdir(parents=True, exist_ok=True)
        os.close(os.open(self.folder / MARKER, os.O_WRONLY | os.O_CREAT | _OPEN, 0o644))
        for folder in self._folders():
            folder.mkdir(parents=True, exist_ok=True)
        _write_once(self.folder / "index.json", {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []})
        _write_once(self.folder / "oci-layout", {"imageLayoutVersion": LAYOUT_VERSION})

    def _folders(self) -> list[Path]:
        blobs = self.folder / "blobs"
        return [self.folder / "incoming", blobs, *(blobs / algorithm for algorithm in _ENCODED)]

    def _check_folders(self) -> None:
        """See that neither the folder nor one in it is another's, as a link would be: we would empty that.

        Raises:
            OSError: one is.
        """
        if self._is_anothers():
            raise OSError(errno.EEXIST, _NOT_OURS, str(self.folder))
        for folder in self._folders():
            if folder.is_symlink():
                raise OSError(errno.ELOOP, f"{folder.name} is a link", str(folder))

    def _is_anothers(self) -> bool:
        """Tell whether something is in the folder, and no mark: in this order, since the mark is made first."""
        try:
            is_used = any(self.folder.iterdir())
        except FileNotFoundError:
            return False
        return is_used and not (self.folder / MARKER).is_file()

    def _blob(self, descriptor: Descriptor) -> Path:
        digest = descriptor.digest
        return self.folder / "blobs" / digest.algorithm / digest.encoded

    def _incoming(self, descriptor: Descriptor) -> Path:
        digest = descriptor.digest
        return self.folder / "incoming" / f"{digest.algorithm}-{digest.encoded}"


@dataclass(slots=True, eq=False)
class Incoming:
    """A blob that is being fetched by us: a locked file, which has its whole size from the beginning.

    Attributes:
        fileno: open for writing and reading.
    """

    fileno: int
    path: Path
    target: Path

    @classmethod
    def begin(cls, path: Path, target: Path, size: int) -> Self | None:
        """Lock a file for `size` bytes; None if another has the lock."""
        incoming = cls.take(path, target=target, create=True)
        if incoming is not None:
            try:
                os.ftruncate(incoming.fileno, 0)
                os.ftruncate(incoming.fileno, size)  # so that others see the room that it will take
            except OSError:
                incoming.discard()
                raise
        return incoming

    @classmethod
    def take(cls, path: Path, *, target: Path | None = None, create: bool = False) -> Self | None:
        """Lock a file if nobody has the lock, and if the file of that name is still the one that was locked."""
        try:
            fileno = os.open(path, os.O_RDWR | _OPEN | (os.O_CREAT if create else 0), 0o644)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(fileno, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.path.samestat(path.stat(), os.fstat(fileno)):
                return cls(fileno, path, target or path)
        except (BlockingIOError, FileNotFoundError):
            pass
        except OSError:
            os.close(fileno)
            raise
        os.close(fileno)
        return None

    def write(self, data: bytes, at: int) -> None:
        """Write all of `data`."""
        view = memoryview(data)
        while view:
            written = os.pwrite(self.fileno, view, at)
            view, at = view[written:], at + written

    def keep(self) -> None:
        """Make it a blob of the cache: its bytes are whole and right. The file stays open."""
        os.fsync(self.fileno)
        self.path.replace(self.target)
        fcntl.flock(self.fileno, fcntl.LOCK_UN)

    def unlink(self) -> None:
        """Remove it, unless it is a blob already; the file stays open."""
        with suppress(OSError):
            if os.path.samestat(self.path.stat(), os.fstat(self.fileno)):
                self.path.unlink()

    def discard(self) -> None:
        """Remove it and close the file."""
        self.unlink()
        os.close(self.fileno)


@contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Lock a file in the block, and tell whether that succeeded: nobody else has the lock."""
    fileno = os.open(path, os.O_RDWR | os.O_CREAT | _OPEN, 0o644)
    try:
        try:
            fcntl.flock(fileno, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            is_ours = False
        else:
            is_ours = True
        yield is_ours
    finally:
        os.close(fileno)


def _files(folder: Path, names: re.Pattern[str]) -> list[tuple[float, int, Path]]:
    """Return the files of a folder that are named so: when each was last used, its size, its path."""
    found = []
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):
                if names.fullmatch(entry.name) and not entry.is_dir(follow_symlinks=False):
                    state = entry.stat(follow_symlinks=False)
                    found.append((state.st_mtime, state.st_size, Path(entry.path)))
    return found


def _write_once(path: Path, document: object) -> None:
    """Write a small file that is not there, in one piece."""
    if not path.exists():
        fresh = path.with_name(f"{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
        try:
            fresh.write_text(json.dumps(document))
            fresh.replace(path)
        finally:
            fresh.unlink(missing_ok=True)
