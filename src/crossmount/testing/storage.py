"""Stores the bytes of blobs in memory or in a folder; knows nothing of repositories."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from crossmount._dataclass import dataclass
from crossmount.oci.descriptor import Digest
from crossmount.testing.values import Content, Inline

PIECE = 256 * 1024
"""Number of bytes that are read at once."""


class UploadBuffer(Protocol):
    """The bytes of an unfinished upload."""

    @property
    def size(self) -> int:
        """Number of bytes so far."""
        ...

    def write(self, data: bytes) -> None:
        """Add bytes."""
        ...

    def digest(self, algorithm: str) -> Digest:
        """Return the digest of the bytes so far."""
        ...

    def discard(self) -> None:
        """Delete the bytes."""
        ...


class BlobStore(Protocol):
    """Blobs by digest, for all repositories."""

    def buffer(self) -> UploadBuffer:
        """Return an empty buffer for an upload."""
        ...

    def add(self, buffer: UploadBuffer, digest: Digest) -> None:
        """Store the bytes of a buffer of this store as blob `digest`; the buffer cannot be used again."""
        ...

    def get(self, digest: Digest) -> Content | None:
        """Return a blob, if it is there."""
        ...

    def close(self) -> None:
        """Delete unfinished uploads."""
        ...


class MemoryBuffer:
    """An upload in memory, hashed as it arrives."""

    def __init__(self) -> None:
        self.data = bytearray()
        self._hashed = hashlib.sha256()

    @property
    def size(self) -> int:
        """Number of bytes so far."""
        return len(self.data)

    def write(self, data: bytes) -> None:
        """Add bytes."""
        self.data += data
        self._hashed.update(data)

    def digest(self, algorithm: str) -> Digest:
        """Return the digest of the bytes so far."""
        if algorithm == "sha256":
            return Digest(f"sha256:{self._hashed.hexdigest()}")
        return Digest.of(bytes(self.data), algorithm=algorithm)

    def discard(self) -> None:
        """Delete the bytes."""
        self.data.clear()


class MemoryBlobs:
    """Blobs in memory."""

    def __init__(self) -> None:
        self._blobs: dict[Digest, Inline] = {}

    def buffer(self) -> MemoryBuffer:
        """Return an empty buffer for an upload."""
        return MemoryBuffer()

    def add(self, buffer: UploadBuffer, digest: Digest) -> None:
        """Store the bytes of `buffer` as blob `digest`."""
        assert isinstance(buffer, MemoryBuffer)  # noqa: S101 a store gets only buffers that it made
        self._blobs[digest] = Inline(bytes(buffer.data))
        buffer.discard()

    def get(self, digest: Digest) -> Content | None:
        """Return a blob, if it is there."""
        return self._blobs.get(digest)

    def close(self) -> None:
        """Do nothing: no file is open."""


@dataclass(frozen=True, slots=True)
class FileContent:
    """A blob in a file."""

    path: Path
    size: int

    def read(self, start: int, length: int) -> Iterator[bytes]:
        """Yield `length` bytes from `start` on."""
        with self.path.open("rb") as file:
            file.seek(start)
            while length > 0:
                data = file.read(min(PIECE, length))
                if not data:
                    return
                length -= len(data)
                yield data


class FileBuffer:
    """An upload in a file, hashed as it arrives."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self._file = path.open("wb", buffering=0)
        self._hashed = hashlib.sha256()

    def write(self, data: bytes) -> None:
        """Add bytes."""
        self._file.write(data)
        self._hashed.update(data)
        self.size += len(data)

    def digest(self, algorithm: str) -> Digest:
        """Return the digest of the bytes so far; any algorithm but sha256 reads the file again."""
        if algorithm == "sha256":
            return Digest(f"sha256:{self._hashed.hexdigest()}")
        with self.path.open("rb") as file:
            return Digest(f"{algorithm}:{hashlib.file_digest(file, algorithm).hexdigest()}")

    def close(self) -> None:
        """Close the file without removing it."""
        self._file.close()

    def discard(self) -> None:
        """Close and remove the file."""
        self.close()
        self.path.unlink(missing_ok=True)


class FolderBlobs:
    """Blobs in a folder, `blobs/<algorithm>/<hex>` as in an image layout, uploads in `uploads/`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._uploads = root / "uploads"
        self._uploads.mkdir(parents=True, exist_ok=True)
        self._open: set[FileBuffer] = set()
        self._known: dict[Digest, FileContent] = {}
        self._count = 0

    def buffer(self) -> FileBuffer:
        """Return an empty buffer for an upload."""
        self._count += 1
        buffer = FileBuffer(self._uploads / str(self._count))
        self._open.add(buffer)
        return buffer

    def add(self, buffer: UploadBuffer, digest: Digest) -> None:
        """Store the bytes of `buffer` as blob `digest`."""
        assert isinstance(buffer, FileBuffer)  # noqa: S101 a store gets only buffers that it made
        path = self._root / "blobs" / digest.algorithm / digest.encoded
        path.parent.mkdir(parents=True, exist_ok=True)
        buffer.close()
        self._open.discard(buffer)
        buffer.path.replace(path)
        self._known[digest] = FileContent(path, buffer.size)

    def get(self, digest: Digest) -> Content | None:
        """Return a blob, if it is there."""
        return self._known.get(digest)

    def close(self) -> None:
        """Remove unfinished uploads; blobs stay."""
        for buffer in self._open:
            buffer.discard()
        self._open.clear()
