"""The blob cache: a folder with an image layout, of bounded size, which any number of processes share.

    crossmount-cache                                    created first: it distinguishes a cache from a layout
    oci-layout, index.json, blobs/<algorithm>/<hex>     an image layout (image specification, image-layout.md)
    incoming/<algorithm>-<hex>                          a blob in progress, locked by the process that fetches it
    lock                                                locked while blobs are evicted

A blob enters `blobs` complete, verified and on disk, by one rename. Locks are flocks, which end with their
process: the next process takes or removes a file that a killed process left in `incoming`.

Another user who can write to the folder can damage the cache but nothing else: no link is followed, no wait is
endless, files that the cache did not name are not touched, and the readers of a blob check its bytes.
"""

import errno
import fcntl
import json
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from crossmount._dataclass import dataclass
from crossmount.errors import InvalidInputError
from crossmount.oci import Descriptor
from crossmount.oci.descriptor import OCI_INDEX
from crossmount.oci.layout import LAYOUT_VERSION

DEFAULT_LIMIT = 10 * 1024**3

MARKER = "crossmount-cache"
"""The file that distinguishes a cache from another image layout, whose blobs must not be removed."""

_NOT_OURS = "not a cache of ours"

_OPEN = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # nor wait for the other end of a pipe
_ENCODED = {"sha256": r"[0-9a-f]{64}", "sha512": r"[0-9a-f]{128}"}
_INCOMING = re.compile("|".join(f"{algorithm}-{encoded}" for algorithm, encoded in _ENCODED.items()))


@dataclass(frozen=True, slots=True)
class BlobCache:
    """A local cache of blobs, so that a copy to several registries fetches a layer once.

    Many processes can use one cache. All methods block for a few system calls and raise OSError; callers then
    bypass the cache.

    Attributes:
        folder: created when it is first needed.
        limit: the largest size in bytes; the blob that was not used for the longest time is evicted first.
    """

    folder: Path
    limit: int = DEFAULT_LIMIT

    def __init__(self, folder: str | Path, *, limit: int = DEFAULT_LIMIT) -> None:
        object.__setattr__(self, "folder", Path(folder))
        object.__setattr__(self, "limit", limit)

    def check(self) -> None:
        """Check that the folder is a cache or may become one: it is absent, empty, or has the marker of a cache.

        Raises:
            InvalidInputError: it contains other files, which the cache would remove.
        """
        with suppress(OSError):  # a folder that cannot be read is bypassed when it is used
            if self._is_not_a_cache():
                raise InvalidInputError(f"{self.folder}: {_NOT_OURS}: give an empty or absent folder")

    def open(self, descriptor: Descriptor) -> int | None:
        """Return a file descriptor of a blob, which counts as used now; None if the cache lacks it.

        The file has the right size; the reader must check the digest.
        """
        self._check_folders()
        try:
            fileno = os.open(self._blob(descriptor), os.O_RDONLY | _OPEN)
        except FileNotFoundError:
            return None
        state = os.fstat(fileno)
        if state.st_size != descriptor.size or not stat.S_ISREG(state.st_mode):
            os.close(fileno)
            return None  # it stays until it is replaced: the descriptor may be wrong
        with suppress(OSError):  # another user's file keeps its time
            os.utime(fileno)
        return fileno

    def begin(self, descriptor: Descriptor) -> "Incoming | None":
        """Begin to fetch a blob; None while another process fetches it."""
        self._make()
        return Incoming.begin(self._incoming(descriptor), self._blob(descriptor), descriptor.size)

    def discard(self, descriptor: Descriptor) -> None:
        """Remove a damaged blob; one of another size stays, because the descriptor may be wrong."""
        path = self._blob(descriptor)
        with suppress(FileNotFoundError):
            if path.stat(follow_symlinks=False).st_size == descriptor.size:
                path.unlink()

    def touched(self, descriptor: Descriptor) -> float | None:
        """Return when a blob in progress was last written to (epoch seconds); None if it is not in progress."""
        try:
            return self._incoming(descriptor).stat().st_mtime
        except FileNotFoundError:
            return None

    def make_room(self) -> bool | None:
        """Evict the least recently used blobs until the cache, incoming blobs included, is within its limit.

        Returns:
            Whether it is within its limit now; None while another process evicts. If the incoming blobs alone
            exceed the limit, nothing is evicted.
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
        """Remove the files that killed processes left."""
        for _, _, path in _files(self.folder / "incoming", _INCOMING):
            left = Incoming.take(path)
            if left is not None:
                left.discard()

    def _make(self) -> None:
        """Make the folder a cache, unless it is one: its marker first, so that it never lacks it."""
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
        """Check that the folder is a cache and that no folder in it is a link, whose target would be emptied.

        Raises:
            OSError: it is not a cache, or contains a link.
        """
        if self._is_not_a_cache():
            raise OSError(errno.EEXIST, _NOT_OURS, str(self.folder))
        for folder in self._folders():
            if folder.is_symlink():
                raise OSError(errno.ELOOP, f"{folder.name} is a link", str(folder))

    def _is_not_a_cache(self) -> bool:
        """Return whether the folder has files but no marker; in this order, since the marker is made first."""
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
    """A blob that this process fetches: a locked file, which has its full size from the beginning.

    Attributes:
        fileno: open for writing and reading.
        path: the file in `incoming`.
        target: the file in `blobs`.
    """

    fileno: int
    path: Path
    target: Path

    @classmethod
    def begin(cls, path: Path, target: Path, size: int) -> Self | None:
        """Lock a file for `size` bytes; None if another process has the lock."""
        incoming = cls.take(path, target=target, create=True)
        if incoming is not None:
            try:
                os.ftruncate(incoming.fileno, 0)
                os.ftruncate(incoming.fileno, size)  # so that other processes see how much space it needs
            except OSError:
                incoming.discard()
                raise
        return incoming

    @classmethod
    def take(cls, path: Path, *, target: Path | None = None, create: bool = False) -> Self | None:
        """Lock a file if it is not locked, and if its name still belongs to the file that was locked."""
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
        """Make it a blob of the cache: it is complete and verified. The file stays open."""
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
    """Lock a file for the block; yield whether that succeeded, which fails while another process has the lock."""
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
    """Return the files with such names in a folder: when each was last used, its size, its path."""
    found = []
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):
                if names.fullmatch(entry.name) and not entry.is_dir(follow_symlinks=False):
                    state = entry.stat(follow_symlinks=False)
                    found.append((state.st_mtime, state.st_size, Path(entry.path)))
    return found


def _write_once(path: Path, document: object) -> None:
    """Write a small file atomically, unless it exists."""
    if not path.exists():
        fresh = path.with_name(f"{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
        try:
            fresh.write_text(json.dumps(document))
            fresh.replace(path)
        finally:
            fresh.unlink(missing_ok=True)
