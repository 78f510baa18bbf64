"""Headers of a tar that claim to be large, or are many: refused before they take memory."""

import os
import tarfile
import tracemalloc
from pathlib import Path

import pytest

from crossmount.errors import InvalidLayoutError
from crossmount.oci.layout import open_layout


def header(kind: bytes, size: int, name: str = "header") -> bytes:
    """Return a header that claims `size` bytes."""
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.USTAR_FORMAT)


@pytest.mark.parametrize(
    "kind",
    [
        tarfile.XHDTYPE,
        tarfile.XGLTYPE,
        tarfile.SOLARIS_XHDTYPE,
        tarfile.GNUTYPE_LONGNAME,
        tarfile.GNUTYPE_LONGLINK,
    ],
)
@pytest.mark.parametrize("before", [0, 1])
def test_a_header_that_claims_a_gigabyte_is_not_read(tmp_path: Path, kind: bytes, before: int) -> None:
    """An extended header of more than 1 MiB is refused by its size alone, wherever it is in the tar."""
    path = tmp_path / "image.tar"
    path.write_bytes(header(tarfile.REGTYPE, 0, "oci-layout") * before + header(kind, 2**30))
    os.truncate(path, 2**30 + 4096)  # a hole: none of it is on the disk
    tracemalloc.start()
    with pytest.raises(InvalidLayoutError, match="a header of 1073741824 bytes"):
        open_layout(path)
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (header(tarfile.XHDTYPE, 0) * 100, "more than 32 headers"),
        ((header(tarfile.XHDTYPE, 900_000) + bytes(900_096)) * 2, "a header of 1800000 bytes"),
        (
            (header(tarfile.XGLTYPE, 600_000) + bytes(600_064) + header(tarfile.REGTYPE, 0)) * 2,
            "a header of 1200000 bytes",
        ),
        (
            (header(tarfile.GNUTYPE_LONGNAME, 900_000) + b"x" * 900_096 + header(tarfile.REGTYPE, 0)) * 10,
            "the names in it have more than",
        ),
    ],
)
def test_many_headers_are_as_bounded_as_a_large_one(tmp_path: Path, content: bytes, why: str) -> None:
    """Headers that are small each, and together take much memory, are refused too."""
    path = tmp_path / "image.tar"
    path.write_bytes(content + bytes(1024))
    with pytest.raises(InvalidLayoutError, match=why):
        open_layout(path)


def test_the_map_of_a_sparse_member_is_not_kept(tmp_path: Path) -> None:
    """A sparse member whose map goes on for ever is refused, in GNU's old format and in the format 1.0."""
    block = bytearray(header(tarfile.GNUTYPE_SPARSE, 0))
    block[482] = 1
    block[148:156] = b"%06o\0 " % (sum(block[:148] + block[156:512]) + 256)
    more = b"".join(b"%011o " % 1 for _ in range(42)) + b"\1" + bytes(7)
    path = tmp_path / "image.tar"
    path.write_bytes(bytes(block) + more * 3000 + bytes(1024))
    with pytest.raises(InvalidLayoutError, match="a header of"):
        open_layout(path)
