"""Blobs that are read from files and from memory."""

from pathlib import Path

import pytest

from crossmount.errors import InvalidLayoutError
from crossmount.oci import BlobSource, BytesBlob, Descriptor, Digest, FileBlob
from crossmount.oci.blob import READ_BYTES

CONTENT = bytes(range(256)) * 9000
DESCRIPTOR = Descriptor("application/octet-stream", Digest.of(CONTENT), len(CONTENT))


async def collect(blob: BlobSource, offset: int = 0) -> bytes:
    """Read a blob to its end."""
    return b"".join([piece async for piece in blob.stream(offset)])


@pytest.mark.parametrize("offset", [0, 1, READ_BYTES, len(CONTENT) - 1, len(CONTENT)])
async def test_blob_is_read_from_any_offset_as_often_as_needed(tmp_path: Path, offset: int) -> None:
    """A part of a file, and bytes in memory, are read from any offset, more than once."""
    path = tmp_path / "archive"
    path.write_bytes(b"before" + CONTENT + b"after")
    for blob in (FileBlob(DESCRIPTOR, path, 6), BytesBlob(DESCRIPTOR, CONTENT)):
        for _ in range(2):
            assert await collect(blob, offset) == CONTENT[offset:]


async def test_file_that_became_shorter_is_an_error(tmp_path: Path) -> None:
    """A blob that ends too early is an error that names it."""
    path = tmp_path / "blob"
    path.write_bytes(CONTENT[:-7])
    with pytest.raises(InvalidLayoutError, match=f"{DESCRIPTOR.digest} ends 7 bytes early"):
        await collect(FileBlob(DESCRIPTOR, path))


async def test_file_that_is_gone_is_an_error(tmp_path: Path) -> None:
    """A blob whose file is gone is an error that names both."""
    with pytest.raises(InvalidLayoutError, match=f"gone: blob {DESCRIPTOR.digest}: No such file"):
        await collect(FileBlob(DESCRIPTOR, tmp_path / "gone"))
