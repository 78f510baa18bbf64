"""Where a blob's bytes come from: opened only if they are needed, and again if they are needed again."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from crossmount.errors import InvalidLayoutError
from crossmount.oci.descriptor import Descriptor

READ_BYTES = 1024 * 1024


class BlobSource(Protocol):
    """A blob whose bytes can be read, from any offset, as often as needed."""

    @property
    def descriptor(self) -> Descriptor:
        """What the bytes are: their digest and their size."""
        ...

    def stream(self, offset: int = 0) -> AsyncIterator[bytes]:
        """Yield the bytes from `offset` to the end."""
        ...


@dataclass(frozen=True, slots=True)
class FileBlob:
    """A blob that lies in a file, whole or as a part of an archive.

    Attributes:
        path: the file.
        start: where in the file the blob's first byte is.
    """

    descriptor: Descriptor
    path: Path
    start: int = 0

    async def stream(self, offset: int = 0) -> AsyncIterator[bytes]:
        """Yield the bytes from `offset` on, a MiB at a time, read off the event loop.

        Raises:
            InvalidLayoutError: the file is gone, unreadable or shorter than it was.
        """
        left = self.descriptor.size - offset
        try:
            # opened on the loop: a cancel while a thread opens it would lose the file
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
    """A small blob that is in memory."""

    descriptor: Descriptor
    content: bytes

    async def stream(self, offset: int = 0) -> AsyncIterator[bytes]:
        """Yield the bytes from `offset` on."""
        yield self.content[offset:]
