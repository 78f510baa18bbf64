"""Blobs that are read from files and from memory."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from crossmount.errors import InvalidLayoutError
from crossmount.oci import BlobSource, BytesBlob, Descriptor, Digest, FileBlob
from crossmount.oci.blob import READ_BYTES, STATES_MAX
from crossmount.oci.layout import load_image
from support.images import make_layers, make_layout, to_archive

CONTENT = bytes(range(256)) * 9000
DESCRIPTOR = Descriptor("application/octet-stream", Digest.of(CONTENT), len(CONTENT))


async def collect(blob: BlobSource, offset: int = 0, received: list[bytes] | None = None) -> bytes:
    """Read a blob to its end; `received` gets the parts."""
    received = [] if received is None else received
    async for part in blob.stream(offset):
        received.append(part)
    return b"".join(received)


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


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("wrong", [0, READ_BYTES, len(CONTENT) - 1])
async def test_wrong_bytes_are_never_yielded_to_the_end(tmp_path: Path, algorithm: str, wrong: int) -> None:
    """If any byte of a file is wrong, the last part is not yielded, and the error says so."""
    path = tmp_path / "blob"
    path.write_bytes(CONTENT[:wrong] + bytes([CONTENT[wrong] ^ 1]) + CONTENT[wrong + 1 :])
    descriptor = Descriptor("x/y", Digest.of(CONTENT, algorithm=algorithm), len(CONTENT))
    for offset in (0, 5, len(CONTENT) - 1):
        blob, received = FileBlob(descriptor, path), list[bytes]()
        with pytest.raises(InvalidLayoutError, match="damaged"):
            await collect(blob, offset, received)
        assert sum(map(len, received)) < len(CONTENT) - offset


async def test_wrong_bytes_of_a_small_blob_are_not_sent_at_all(tmp_path: Path) -> None:
    """A blob of less than a part is checked before its first byte is yielded; so is an empty one."""
    path = tmp_path / "blob"
    for content in (b"wrong", b""):
        path.write_bytes(content)
        blob = FileBlob(Descriptor("x/y", Digest.of(b"right"), len(content)), path)
        with pytest.raises(InvalidLayoutError, match="damaged"):
            await anext(blob.stream())


@pytest.mark.parametrize("offset", [1, READ_BYTES - 1, READ_BYTES, READ_BYTES + 7, len(CONTENT)])
async def test_a_resumed_upload_gets_the_same_bytes(tmp_path: Path, offset: int) -> None:
    """A reading that was left early goes on from any offset, and yields the bytes that the file has there."""
    path = tmp_path / "blob"
    path.write_bytes(CONTENT)
    reading = FileBlob(DESCRIPTOR, path).reading()
    first = reading.stream()
    assert await anext(first) == CONTENT[:READ_BYTES]
    await first.aclose()
    assert await collect(reading, offset) == CONTENT[offset:]
    assert await collect(reading, 0) == CONTENT


async def test_bytes_that_change_between_two_requests_are_noticed(tmp_path: Path) -> None:
    """Wrong bytes that were sent are not made good by right ones that are in the file when the upload resumes."""
    path = tmp_path / "blob"
    path.write_bytes(b"wrong" + CONTENT[5:])
    reading = FileBlob(DESCRIPTOR, path).reading()
    first = reading.stream()
    await anext(first)
    await first.aclose()
    path.write_bytes(CONTENT)
    for offset, why in ((100, "changed while it was sent"), (READ_BYTES, "damaged")):
        with pytest.raises(InvalidLayoutError, match=why):
            await collect(reading, offset)


async def test_a_long_blob_keeps_few_states(tmp_path: Path) -> None:
    """Of a blob with more parts than states are kept, an upload can still resume anywhere."""
    size = (STATES_MAX + 2) * READ_BYTES
    path = tmp_path / "blob"
    with path.open("wb") as file:
        file.truncate(size)
    blob = FileBlob(Descriptor("x/y", Digest.of(bytes(size)), size), path)
    reading = blob.reading()
    for offset in (0, 1, size - 1):
        assert len(await collect(reading, offset)) == size - offset


def linked(path: Path, outside: Path) -> None:
    """Put a link out of the layout in a blob's place."""
    path.unlink()
    path.symlink_to(outside)


def linked_folder(path: Path, outside: Path) -> None:
    """Put a link to another folder, with a file of the same name, in the place of a blob's folder."""
    path.parent.rename(outside.parent / "old")
    (outside.parent / "new").mkdir()
    (outside.parent / "new" / path.name).write_bytes(outside.read_bytes())
    path.parent.symlink_to(outside.parent / "new")


def piped(path: Path, outside: Path) -> None:
    """Put a named pipe, which blocks its reader, in a blob's place."""
    del outside
    path.unlink()
    os.mkfifo(path)


def longer(path: Path, outside: Path) -> None:
    """Add bytes to a blob's file."""
    del outside
    with path.open("ab") as file:
        file.write(b"more")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (linked, "replaced by a link"),
        (linked_folder, "replaced by a link"),
        (piped, "not a file"),
        (longer, "changed since it was checked"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
async def test_a_file_that_was_replaced_after_its_check_is_not_read(
    tmp_path: Path, change: Callable[[Path, Path], None], why: str, packed: bool
) -> None:
    """Of what is put in the place of a layout's file, or of a tar, after it was read, not one byte is yielded."""
    made = make_layout(tmp_path / "in" / "layout", make_layers(1, size=5000))
    path = made.blob_path(made.layers[0].digest)
    if packed:
        path = to_archive(made.path, tmp_path / "in" / "image.tar")
    image = load_image(path if packed else made.path)
    outside = tmp_path / "secret"
    outside.write_bytes(bytes(path.stat().st_size))
    change(path, outside)
    blob = next(blob for blob in image.blobs if blob.descriptor.digest == made.layers[0].digest)
    with pytest.raises(InvalidLayoutError, match=why):
        await anext(aiter(blob.stream()))
