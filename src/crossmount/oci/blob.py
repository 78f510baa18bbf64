"""Sources of a blob's bytes. They are opened only when the bytes are needed, as often as needed."""

from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn, Protocol

from crossmount.errors import InvalidLayoutError
from crossmount.oci.blob_reading import BlobReading
from crossmount.oci.descriptor import Descriptor
from crossmount.oci.open_file import OpenFile


class BlobSource(Protocol):
    """A blob whose bytes can be read from any offset, as often as needed."""

    @property
    def descriptor(self) -> Descriptor:
        """The blob's media type, digest and size."""
        ...

    def stream(self, offset: int = 0) -> AsyncIterator[bytes]:
        """Yield the bytes from `offset` to the end.

        Args:
            offset: the first byte's position.
        """
        ...


@dataclass(frozen=True, slots=True)
class FileBlob:
    """A blob in a file: the whole file, or a part of an archive.

    Attributes:
        descriptor: the blob's media type, digest and size.
        path: the file.
        start: the position of the blob's first byte in the file.
        checked_size: the file's size in bytes when `path`, without links, was checked; None if nobody checked it.
        file: the file itself if it has no path; `path` is its name in errors then.
    """

    descriptor: Descriptor
    path: Path
    start: int = 0
    checked_size: int | None = None
    file: OpenFile | None = field(default=None, compare=False, repr=False)

    def stream(self, offset: int = 0) -> AsyncGenerator[bytes]:
        """Yield the bytes from `offset` on, up to 1 MiB at a time; the last ones only if the digest is right.

        The bytes before `offset` are read too, for the digest. For several reads of one upload use `reading`.

        Raises:
            InvalidLayoutError: the file is gone, unreadable, no regular file, or has other bytes or another size.
        """
        return self.reading().stream(offset)

    def reading(self) -> BlobReading:
        """Return a source of the same bytes for one upload, which reads them once however often it resumes."""
        return BlobReading(self.descriptor, self.path, self.start, self._open)

    def _open(self) -> OpenFile:
        return self.file or OpenFile.at(self.path, links=self.checked_size is None, size=self.checked_size)


@dataclass(frozen=True, slots=True)
class AbsentBlob:
    """A blob that a layout names and does not have: it can be mounted, or fetched from a registry.

    Attributes:
        descriptor: the blob's media type, digest and size.
        missing: where it is missing and which manifest names it, for errors.
    """

    descriptor: Descriptor
    missing: str

    def stream(self, offset: int = 0) -> NoReturn:
        """Raise the error that the blob is missing.

        Raises:
            InvalidLayoutError: always.
        """
        del offset
        raise InvalidLayoutError(f"{self.missing}: make the layout anew")


@dataclass(frozen=True, slots=True)
class BytesBlob:
    """A small blob in memory."""

    descriptor: Descriptor
    content: bytes

    async def stream(self, offset: int = 0) -> AsyncGenerator[bytes]:
        """Yield the bytes from `offset` on."""
        yield self.content[offset:]
