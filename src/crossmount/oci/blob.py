"""Sources of a blob's bytes. They are opened only when the bytes are needed, as often as needed."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from crossmount.errors import InvalidLayoutError
from crossmount.oci.descriptor import Descriptor

READ_BYTES = 1024 * 1024


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
    """

    descriptor: Descriptor
    path: Path
    start: int = 0

    async def stream(self, offset: int = 0) -> AsyncIterator[bytes]:
        """Yield the bytes from `offset` on, up to 1 MiB at a time; a thread reads them.

        Raises:
            InvalidLayoutError: the file is gone, unreadable or too short.
        """
        left = self.descriptor.size - offset
        try:
            # opened on the event loop: a cancellation while a thread opens it would leak the file
            with self.path.open("rb", buffering=0) as file:
                file.seek(self.start + offset)
                while left:
                    data = await asyncio.to_thread(file.read, min(left, READ_BYTES))
                    if not data:
                        raise InvalidLayoutError(
                            f"{self.path}: blob {self.descriptor.digest} ends {left} bytes early"
                        )
                    left -= len(data)
                    yield data
        except OSError as error:
            raise InvalidLayoutError(f"{self.path}: blob {self.descriptor.digest}: {error.strerror}") from error


@dataclass(frozen=True, slots=True)
class BytesBlob:
    """A small blob in memory."""

    descriptor: Descriptor
    content: bytes

    async def stream(self, offset: int = 0) -> AsyncIterator[bytes]:
        """Yield the bytes from `offset` on."""
        yield self.content[offset:]
