"""Where the bytes of blobs are: in memory, or in files of a folder. No idea of repositories."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from crossmount.oci.digest import Digest
from crossmount.testing.values import Content, Inline

PIECE = 256 * 1024
"""How many bytes are in hand at once."""


class UploadBuffer(Protocol):
    """The bytes of an upload that is going on."""

    @property
    def size(self) -> int:
        """How many bytes have come."""
        ...

    def write(self, data: bytes) -> None:
        """Add bytes."""
        ...

    def digest(self, algorithm: str) -> Digest:
        """Return the digest of what has come."""
        ...

    def discard(self) -> None:
        """Forget the bytes."""
        ...


class BlobStore(Protocol):
    """Blobs by digest, whoever refers to them."""

    def spool(self) -> UploadBuffer:
        """Begin an upload."""
        ...

    def keep(self, spool: UploadBuffer, digest: Digest) -> None:
        """Make what a spool of this store holds the blob `digest`; the spool is used up."""
        ...

    def get(self, digest: Digest) -> Content | None:
        """Return a blob."""
        ...

    def close(self) -> None:
        """Let go of unfinished uploads."""
        ...


class MemoryBuffer:
    """An upload in memory, hashed as it comes."""

    def __init__(self) -> None:
        self.data = bytearray()
        self._hashed = hashlib.sha256()

    @property
    def size(self) -> int:
        """How many bytes have come."""
        return len(self.data)

    def write(self, data: bytes) -> None:
        """Add bytes."""
        self.data += data
        self._hashed.update(data)

    def digest(self, algorithm: str) -> Digest:
        """Return the digest of what has come."""
        if algorithm == "sha256":
            return Digest(f"sha256:{self._hashed.hexdigest()}")
        return Digest.of(bytes(self.data), algorithm=algorithm)

    def discard(self) -> None:
        """Forget the bytes."""
        self.data.clear()


class MemoryBlobs:
    """Blobs in memory."""

    def __init__(self) -> None:
        self._blobs: dict[Digest, Inline] = {}

    def spool(self) -> MemoryBuffer:
        """Begin an upload."""
        return MemoryBuffer()

    def keep(self, spool: UploadBuffer, digest: Digest) -> None:
        """Make what `spool` holds the blob `digest`."""
        assert isinstance(spool, MemoryBuffer)  # noqa: S101 a store gets back the spools it gave
        self._blobs[digest] = Inline(bytes(spool.data))
        spool.discard()

    def get(self, digest: Digest) -> Content | None:
        """Return a blob."""
        return self._blobs.get(digest)

    def close(self) -> None:
        """Nothing is open."""


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
    """An upload in a file, hashed as it comes."""

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
        """Return the digest of what has come; any but sha256 reads the file again."""
        if algorithm == "sha256":
            return Digest(f"sha256:{self._hashed.hexdigest()}")
        with self.path.open("rb") as file:
            return Digest(f"{algorithm}:{hashlib.file_digest(file, algorithm).hexdigest()}")

    def close(self) -> None:
        """Close the file and leave it where it is."""
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

    def spool(self) -> FileBuffer:
        """Begin an upload."""
        self._count += 1
        spool = FileBuffer(self._uploads / str(self._count))
        self._open.add(spool)
        return spool

    def keep(self, spool: UploadBuffer, digest: Digest) -> None:
        """Make what `spool` holds the blob `digest`."""
        assert isinstance(spool, FileBuffer)  # noqa: S101 a store gets back the spools it gave
        path = self._root / "blobs" / digest.algorithm / digest.encoded
        path.parent.mkdir(parents=True, exist_ok=True)
        spool.close()
        self._open.discard(spool)
        spool.path.replace(path)
        self._known[digest] = FileContent(path, spool.size)

    def get(self, digest: Digest) -> Content | None:
        """Return a blob."""
        return self._known.get(digest)

    def close(self) -> None:
        """Remove unfinished uploads; whole blobs stay."""
        for spool in self._open:
            spool.discard()
        self._open.clear()
