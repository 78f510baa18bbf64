"""Sources of a blob's bytes. They are opened only when the bytes are needed, as often as needed.

The bytes of a file are hashed while they are sent; the last ones follow only if all are right.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import field
from pathlib import Path
from typing import NoReturn, Protocol

from crossmount._dataclass import dataclass
from crossmount.errors import InvalidLayoutError
from crossmount.oci.descriptor import Descriptor, Hasher
from crossmount.oci.layout_files import OpenFile

READ_BYTES = 1024 * 1024

STATES_MAX = 64
"""How many states of the hash are kept, one a MiB: an upload that resumes farther back is read from its start."""

_Part = tuple[bytes, Hasher]


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


@dataclass(slots=True, eq=False)
class BlobReading:
    """A blob of a file, as the source of one upload.

    The digest is of the bytes that were yielded first: if a part is read again after the upload resumed, and has
    changed meanwhile, that is an error.

    Attributes:
        descriptor: the blob's media type, digest and size.
        path: the file's name in errors.
        start: the position of the blob's first byte in the file.
        open: opens the file.
    """

    descriptor: Descriptor
    path: Path
    start: int
    open: Callable[[], OpenFile]
    _states: dict[int, Hasher] = field(default_factory=dict, init=False)
    """The hash of the first bytes, by their number, a multiple of `READ_BYTES` or the blob's size."""

    async def stream(self, offset: int = 0) -> AsyncGenerator[bytes]:
        """Yield the bytes from `offset` on; a thread reads and hashes the next part while one is sent.

        Raises:
            InvalidLayoutError: the file is gone, unreadable, replaced, too short, or has other bytes.
        """
        size, file = self.descriptor.size, self._opened()
        at = max((known for known in self._states if known <= offset), default=0)
        hasher, pending = self._states.get(at) or self.descriptor.digest.hasher(), b""
        if not size:
            self._note(0, hasher)
        while at < size:
            begin, at = at, min(size, (at // READ_BYTES + 1) * READ_BYTES)
            reading = asyncio.ensure_future(
                asyncio.to_thread(_read_and_hash, file, at - begin, self.start + begin, hasher)
            )
            try:
                if pending:
                    yield pending
                part, hasher = await reading
            except OSError as error:
                raise self._unreadable(error) from error
            finally:
                reading.cancel()
                reading.add_done_callback(_retrieve)
            if len(part) != at - begin:
                left = size - begin - len(part)
                raise InvalidLayoutError(f"{self.path}: blob {self.descriptor.digest} ends {left} bytes early")
            self._note(at, hasher)
            pending = part[max(offset - begin, 0) :]
        if pending:
            yield pending

    def _opened(self) -> OpenFile:
        """Open the file on the event loop: a cancellation while a thread opens it would leak the file."""
        try:
            return self.open()
        except OSError as error:
            raise self._unreadable(error) from error

    def _note(self, at: int, hasher: Hasher) -> None:
        """Keep the state after `at` bytes; compare it with what it was before, and at the end with the digest."""
        known = self._states.get(at)
        if known is not None and known.hexdigest() != hasher.hexdigest():
            raise InvalidLayoutError(f"{self.path}: blob {self.descriptor.digest} changed while it was sent")
        if at == self.descriptor.size and not self.descriptor.digest.matches(hasher):
            raise InvalidLayoutError(
                f"{self.path}: blob {self.descriptor.digest} is damaged: its bytes have another digest: "
                f"make the layout anew"
            )
        self._states[at] = hasher
        if len(self._states) > STATES_MAX:
            del self._states[min(self._states)]

    def _unreadable(self, error: OSError) -> InvalidLayoutError:
        return InvalidLayoutError(f"{self.path}: blob {self.descriptor.digest}: {error.strerror}")


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


def _read_and_hash(file: OpenFile, size: int, start: int, hasher: Hasher) -> _Part:
    """Read a part, and return it with the hash of all bytes up to its end."""
    data, after = file.read(size, start), hasher.copy()
    after.update(data)
    return data, after


def _retrieve(reading: "asyncio.Future[_Part]") -> None:
    """Retrieve the error of a part that nobody waits for any more."""
    if not reading.cancelled():
        reading.exception()
