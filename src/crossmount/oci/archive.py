"""An image layout in a tar: its headers are read once, nothing is extracted, a blob is a part of the file.

Extended headers are bounded, since Python's `tarfile` takes as much memory as a header claims to have.
"""

import posixpath
import tarfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from crossmount._dataclass import dataclass
from crossmount.errors import InvalidLayoutError
from crossmount.oci.image_spool import GZIP, ZSTD, ImageSpool
from crossmount.oci.layout_files import Extent, OpenFile, reading

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


MEMBERS_MAX = 100_000
"""More files than any image has; the list of more would take too much memory."""

NAMES_MAX = 8 * 1024 * 1024
"""More letters than all names in an image's tar have together."""

_LINKS_MAX = 16
_NOT_A_TAR = (tarfile.TarError, EOFError, ArithmeticError, LookupError)
_COMPRESSED = {
    GZIP: ("gzip", "gunzip"),
    ZSTD: ("zstd", "unzstd"),
    b"\xfd7zXZ\x00": ("xz", "unxz"),
    b"BZh": ("bzip2", "bunzip2"),
}


@dataclass(frozen=True, slots=True)
class _Member:
    """One member of the tar.

    Attributes:
        start: the position of its first byte.
        size: its size in bytes.
        is_link: whether it is a link.
        link: the name of a link's target; None if the target is outside the archive.
        defect: why it cannot be read as a file; empty if it can.
    """

    start: int
    size: int
    is_link: bool = False
    link: str | None = None
    defect: str = ""


@dataclass(frozen=True, slots=True)
class ArchiveFiles:
    """A layout in a tar; if two members have one name the last one is used, as in extracting.

    Attributes:
        path: the tar's name in errors.
        whole: the position of the tar itself.
        members: its members, by name.
        is_whole: whether it ends as a complete tar does.
    """

    path: Path
    whole: Extent
    members: Mapping[str, _Member]
    is_whole: bool

    @classmethod
    def open(cls, path: Path, *, spooled: OpenFile | None = None, spool: ImageSpool | None = None) -> Self:
        """Read the headers of a tar.

        Args:
            path: the tar, or its name in errors.
            spooled: the tar itself, if it has no path.
            spool: unpacks a tar that gzip or zstd has packed; None refuses it.

        Raises:
            InvalidLayoutError: the file is no tar, is compressed, or has members with names outside of it.
        """
        with reading(path):
            if spooled is None and not path.is_file():
                raise InvalidLayoutError(f"{path}: neither a directory nor a file")
            real = path.resolve(strict=True) if spooled is None else path
            file = spooled or OpenFile.at(real, links=False)
            if spool is not None and file.read(len(ZSTD), 0).startswith((GZIP, ZSTD)):
                file = spooled = spool.unpack(file, where=str(path))
            length = file.size
            _refuse_foreign_head(path, file.read(8, 0))
            try:
                with file.buffered() as data, BoundedTar(str(path), fileobj=data) as tar:
                    members = _table(path, tar, length)
                    is_whole = file.read(tarfile.BLOCKSIZE, tar.offset) == bytes(tarfile.BLOCKSIZE)
            except _NOT_A_TAR as error:
                advice = "give a tar of an image, as docker save or skopeo copy writes it"
                raise InvalidLayoutError(f"{path}: not a tar ({error}): {advice}") from error
        return cls(path, Extent(real, 0, length, checked_size=length, file=spooled), members, is_whole)

    @property
    def where(self) -> str:
        """The archive's name in errors, which says if the archive is cut off."""
        return str(self.path) if self.is_whole else f"{self.path} (damaged or cut off: no end mark)"

    def find(self, name: str) -> Extent | None:
        """Return the position of a member, or None; links are followed inside the archive.

        Raises:
            InvalidLayoutError: the member is not a readable file, or a link out of the archive.
        """
        current = name
        for _ in range(_LINKS_MAX):
            member = self.members.get(current)
            if member is None:
                return None
            if member.defect:
                raise InvalidLayoutError(f"{self.where}: {current}: {member.defect}")
            if not member.is_link:
                return replace(self.whole, start=member.start, size=member.size)
            if member.link is None:
                raise InvalidLayoutError(f"{self.where}: {current}: a link that leads out of the archive")
            current = member.link
        raise InvalidLayoutError(f"{self.where}: {name}: links that lead to each other")

    def folder_with(self, name: str) -> str | None:
        """Return a folder at any depth that has the file `name`."""
        return next((found[: -len(name) - 1] for found in self.members if found.endswith(f"/{name}")), None)


def _refuse_foreign_head(path: Path, head: bytes) -> None:
    if not head:
        raise InvalidLayoutError(f"{path}: an empty file: did docker save or skopeo copy fail?")
    for magic, (kind, tool) in _COMPRESSED.items():
        if head.startswith(magic):
            raise InvalidLayoutError(
                f"{path}: compressed with {kind}: decompress it first, for example with {tool}: "
                f"its blobs are read in place"
            )


def _table(path: Path, tar: tarfile.TarFile, length: int) -> dict[str, _Member]:
    """Return the members up to the first broken header; a missing blob can then be named in the error."""
    members: dict[str, _Member] = {}
    left = NAMES_MAX
    for _ in range(MEMBERS_MAX):
        info = _next(tar)
        if info is None:
            return members
        left -= len(info.name) + len(info.linkname)
        if left < 0:
            raise InvalidLayoutError(
                f"{path}: the names in it have more than {NAMES_MAX} letters: not an image layout"
            )
        name = _inside(info.name)
        if name is None:
            raise InvalidLayoutError(
                f"{path}: its member {info.name[:200]!r} leads out of it: not an image layout"
            )
        members[name] = _member(name, info, length)
    raise InvalidLayoutError(f"{path}: {MEMBERS_MAX} members and more: not an image layout")


def _next(tar: tarfile.TarFile) -> tarfile.TarInfo | None:
    try:
        return tar.next()
    except _NOT_A_TAR:  # a header after the first: the first is good, because TarFile was made
        return None


def _member(name: str, info: tarfile.TarInfo, length: int) -> _Member:
    if info.islnk():
        return _Member(0, 0, is_link=True, link=_inside(info.linkname))
    if info.issym():
        return _Member(0, 0, is_link=True, link=_inside(posixpath.join(posixpath.dirname(name), info.linkname)))
    if info.issparse():
        return _Member(0, 0, defect="a sparse member, whose bytes are not in one piece: make the tar without -S")
    if not info.isreg():
        return _Member(0, 0, defect="not a file")
    if info.offset_data + info.size > length:
        return _Member(0, 0, defect="cut off: the archive ends before it does")
    return _Member(info.offset_data, info.size)


def _inside(name: str) -> str | None:
    """Return a member's name normalised, or None if it is absolute or above the archive."""
    plain = posixpath.normpath(name)
    return None if plain.startswith(("/", "../")) or plain == ".." else plain
