"""A tar whose extended headers are bounded: Python's `tarfile` takes as much memory as a header claims to have."""

import tarfile
from typing import Any, Self

from crossmount.errors import InvalidLayoutError

HEADER_BYTES_MAX = 1024 * 1024
"""The largest size of a member's extended headers, and of all global ones, in bytes; an image needs few."""

HEADERS_MAX = 32
"""The most extended headers of one member."""


class _BoundedInfo(tarfile.TarInfo):
    """A member whose headers are refused before they are read if they are too large."""

    def _proc_gnulong(self, tar: "BoundedTar") -> Any:
        self._count(tar)
        return super()._proc_gnulong(tar)  # type: ignore[misc]

    def _proc_pax(self, tar: "BoundedTar") -> Any:
        self._count(tar)
        if self.type == tarfile.XGLTYPE:
            tar.global_bytes += self.size
            _bound(tar, tar.global_bytes)
        return super()._proc_pax(tar)  # type: ignore[misc]

    def _proc_sparse(self, tar: "BoundedTar") -> Self:
        """Pass over the map of a sparse member in GNU's old format, without keeping it."""
        _, more, size = self._sparse_structs  # type: ignore[attr-defined]
        blocks = 0
        while more:
            blocks += 1
            _bound(tar, blocks * tarfile.BLOCKSIZE)
            more = bool(tar.fileobj.read(tarfile.BLOCKSIZE)[504])
        self.sparse = b""
        self.offset_data = tar.fileobj.tell()
        tar.offset = self.offset_data + self._block(self.size)  # type: ignore[attr-defined]
        self.size = size
        return self

    def _proc_gnusparse_10(self, following: tarfile.TarInfo, headers: Any, tar: "BoundedTar") -> None:
        """Mark a sparse member in the format 1.0, whose map is in its data: it is not read."""
        del self, headers, tar
        following.sparse = b""

    def _count(self, tar: "BoundedTar") -> None:
        """Count a header of the next member: all of them are in memory until it is read."""
        tar.header_bytes += self.size
        tar.headers += 1
        _bound(tar, tar.header_bytes)
        if tar.headers > HEADERS_MAX:
            raise InvalidLayoutError(
                f"{tar.name!s}: a member with more than {HEADERS_MAX} headers: not the tar of an image layout"
            )


class BoundedTar(tarfile.TarFile):
    """A tar to read, uncompressed.

    Attributes:
        headers: extended headers of the next member so far.
        header_bytes: their size.
        global_bytes: the size of all global headers so far.
    """

    tarinfo = _BoundedInfo
    headers = 0
    header_bytes = 0
    global_bytes = 0
    fileobj: Any

    def next(self) -> tarfile.TarInfo | None:
        """Return the next member, or None at the end; members are not kept."""
        self.headers = self.header_bytes = 0
        info = super().next()
        self.members.clear()  # type: ignore[attr-defined]
        return info


def _bound(tar: BoundedTar, size: int) -> None:
    if size > HEADER_BYTES_MAX:
        raise InvalidLayoutError(
            f"{tar.name!s}: a header of {size} bytes, more than {HEADER_BYTES_MAX}: not the tar of an image layout"
        )
