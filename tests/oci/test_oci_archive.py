"""Image layouts in a tar, which are read in place."""

import asyncio
import bz2
import gzip
import io
import lzma
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crossmount.errors import InvalidInputError, InvalidLayoutError
from crossmount.oci import BlobSource, Digest, FileBlob
from crossmount.oci import archive as archive_module
from crossmount.oci.layout import load_image, open_layout
from support.images import MadeImage, make_layers, make_layout, to_archive

Change = Callable[[tarfile.TarInfo, tarfile.TarFile], tarfile.TarInfo | None]


@pytest.fixture
def made(tmp_path: Path) -> MadeImage:
    """Make a layout of one image with two layers, tagged `latest`."""
    return make_layout(tmp_path / "layout", make_layers(2, size=3000))


def member(digest: str) -> str:
    """Return the name of a blob's member in an archive."""
    return f"blobs/{digest[:6]}/{digest[7:]}"


def pack(made: MadeImage, name: str, info: tarfile.TarInfo, *, kind: int = tarfile.PAX_FORMAT) -> Path:
    """Pack a layout into a tar, with `info` instead of the member `name`."""
    target = made.path.parent / "packed.tar"
    with tarfile.open(target, "w", format=kind) as tar:
        for path in sorted(made.path.rglob("*")):
            relative = str(path.relative_to(made.path))
            if relative == name:
                tar.addfile(info)
            elif path.is_file():
                tar.add(path, relative)
    return target


def link(name: str, target: str, kind: bytes) -> tarfile.TarInfo:
    """Return a member that is a link."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


async def collect(blob: BlobSource) -> bytes:
    """Read a blob to its end."""
    return b"".join([piece async for piece in blob.stream()])


async def test_blobs_are_read_in_place(made: MadeImage) -> None:
    """Nothing is extracted: blobs are read from the archive, several at once and more than once."""
    archive = to_archive(made.path, made.path.parent / "a.tar")
    for source in (archive, str(archive), f"oci-archive:{archive}", f"oci-archive:{archive}:latest"):
        image = load_image(source)
        assert image.root.descriptor == made.root
        assert [blob.descriptor for blob in image.blobs] == list(made.blobs)
        contents = await asyncio.gather(*map(collect, image.blobs * 2))
        assert [Digest.of(content) for content in contents] == [blob.digest for blob in made.blobs] * 2
        assert all(isinstance(blob, FileBlob) and blob.path == archive for blob in image.blobs)


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("prefix", ["", "./"])
def test_every_dialect_of_tar(made: MadeImage, kind: int, prefix: str) -> None:
    """The three dialects of tar, with and without a leading dot, give the same image."""
    target = made.path.parent / "a.tar"
    with tarfile.open(target, "w", format=kind) as tar:
        for item in made.path.iterdir():
            tar.add(item, prefix + item.name)
    assert load_image(target).root.descriptor == made.root


@pytest.mark.parametrize(
    ("kind", "target"),
    [(tarfile.SYMTYPE, "../../moved"), (tarfile.SYMTYPE, "./../../moved"), (tarfile.LNKTYPE, "moved")],
)
def test_links_are_followed_inside(made: MadeImage, kind: bytes, target: str) -> None:
    """Symbolic and hard links to other members, which `docker save` writes, are followed."""
    name = member(made.layers[0].digest)
    (made.path / "moved").write_bytes(made.blob_path(made.layers[0].digest).read_bytes())
    image = load_image(pack(made, name, link(name, target, kind)))
    assert asyncio.run(collect(image.blobs[1])) == (made.path / "moved").read_bytes()


@pytest.mark.parametrize(
    ("kind", "target", "message"),
    [
        (tarfile.SYMTYPE, "/etc/passwd", "leads out of the archive"),
        (tarfile.SYMTYPE, "../../../etc/passwd", "leads out of the archive"),
        (tarfile.SYMTYPE, "../..", "is missing"),
        (tarfile.LNKTYPE, "/etc/passwd", "leads out of the archive"),
        (tarfile.LNKTYPE, "../x", "leads out of the archive"),
        (tarfile.LNKTYPE, "nowhere", "is missing"),
        (tarfile.LNKTYPE, "SELF", "links that lead to each other"),
        (tarfile.DIRTYPE, "", "not a file"),
        (tarfile.FIFOTYPE, "", "not a file"),
        (tarfile.CHRTYPE, "", "not a file"),
    ],
)
def test_member_that_is_no_file_is_an_error(made: MadeImage, kind: bytes, target: str, message: str) -> None:
    """A link out of the archive, to nothing or in a circle, a folder and a device are errors naming the blob."""
    name = member(made.layers[0].digest)
    source = pack(made, name, link(name, target.replace("SELF", name), kind))
    with pytest.raises(
        InvalidLayoutError, match=f"{message}.*{made.layers[0].digest}|{made.layers[0].digest} {message}"
    ):
        load_image(source)


def test_sparse_member_is_an_error(made: MadeImage) -> None:
    """A sparse member is refused, and the error says what to do."""
    name = member(made.layers[0].digest)
    info = tarfile.TarInfo(name)
    info.pax_headers = {"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.map": "0,0"}
    with pytest.raises(InvalidLayoutError, match=r"a sparse member.* without -S"):
        load_image(pack(made, name, info))


def test_last_of_two_members_counts(made: MadeImage) -> None:
    """Of two members with one name the last is read, as in extracting."""
    archive = to_archive(made.path, made.path.parent / "a.tar")
    make_layout(made.path, make_layers(1, seed="other"), tag="other")
    with tarfile.open(archive, "a") as tar:
        for item in made.path.iterdir():
            tar.add(item, item.name)
    assert [image.names for image in open_layout(archive).images] == [("latest",), ("other",)]


@pytest.mark.parametrize("name", ["../index.json", "/index.json", "blobs/../../x"])
def test_member_outside_the_archive_is_refused(made: MadeImage, name: str) -> None:
    """A member whose name leads out of the archive is refused."""
    archive = to_archive(made.path, made.path.parent / "a.tar")
    with tarfile.open(archive, "a") as tar:
        tar.addfile(tarfile.TarInfo(name))
    with pytest.raises(InvalidLayoutError, match=r"leads out of it"):
        open_layout(archive)


def test_missing_and_wrong_blobs_are_named(made: MadeImage) -> None:
    """A blob that is absent or has another size is named as in a directory."""
    path = made.blob_path(made.layers[0].digest)
    path.write_bytes(b"short")
    with pytest.raises(
        InvalidLayoutError, match=f"a.tar: blob {made.layers[0].digest} is truncated: it has 5 bytes"
    ):
        load_image(to_archive(made.path, made.path.parent / "a.tar"))
    path.unlink()
    with pytest.raises(InvalidLayoutError, match=f"a.tar: blob {made.layers[0].digest} is missing"):
        load_image(to_archive(made.path, made.path.parent / "a.tar"))


def test_archive_that_is_cut_anywhere_is_an_error(made: MadeImage) -> None:
    """A cut archive is an error at every length, unless only padding is missing."""
    archive = to_archive(made.path, made.path.parent / "a.tar")
    content = archive.read_bytes()
    with tarfile.open(archive) as tar:
        last = max(info.offset_data + info.size for info in tar if info.isreg())
    for length in range(0, last, 331):
        archive.write_bytes(content[:length])
        with pytest.raises(InvalidLayoutError):
            load_image(archive)
    archive.write_bytes(content[: last - 1])
    with pytest.raises(InvalidLayoutError, match="cut off: the archive ends before it does"):
        load_image(archive)
    archive.write_bytes(content[:last])
    assert load_image(archive).root.descriptor == made.root


def test_blob_that_is_cut_off_is_named(made: MadeImage, tmp_path: Path) -> None:
    """If the archive ends within a layer, the error names the layer and its manifest."""
    rest = {path for path in made.path.rglob("*") if path.is_file()} - {made.blob_path(made.layers[1].digest)}
    archive = tmp_path / "a.tar"
    with tarfile.open(archive, "w") as tar:
        for path in (*sorted(rest), made.blob_path(made.layers[1].digest)):
            tar.add(path, path.relative_to(made.path))
    with tarfile.open(archive) as tar:
        start = tar.getmember(member(made.layers[1].digest)).offset_data
    os.truncate(archive, start + 9)
    message = f"cut off: .* this is blob {made.layers[1].digest}, manifest {made.root.digest} names it"
    with pytest.raises(InvalidLayoutError, match=message):
        load_image(archive)


def test_cut_archive_is_called_one(made: MadeImage) -> None:
    """If something is missing from an archive without an end mark, the error says that it is cut off."""
    archive = to_archive(made.path, made.path.parent / "a.tar")
    with tarfile.open(archive) as tar:
        index = tar.getmember("index.json")
    archive.write_bytes(archive.read_bytes()[: index.offset])
    with pytest.raises(InvalidLayoutError, match="cut off: no end mark"):
        load_image(archive)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "an empty file"),
        (b"x", "not a tar"),
        (b"hello " * 500, "not a tar"),
        (bytes(10240), "not an image layout"),
        (gzip.compress(b"x"), "compressed with gzip: decompress it first, for example with gunzip"),
        (bz2.compress(b"x"), "compressed with bzip2: .* bunzip2"),
        (lzma.compress(b"x"), "compressed with xz: .* unxz"),
        (b"\x28\xb5\x2f\xfd\x04\x00", "compressed with zstd: .* unzstd"),
    ],
    ids=["empty", "short", "text", "zeros", "gzip", "bzip2", "xz", "zstd"],
)
def test_file_that_is_no_tar_is_an_error(tmp_path: Path, content: bytes, message: str) -> None:
    """A file that is no plain tar is an error that says what it is and what to do."""
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(InvalidLayoutError, match=message):
        open_layout(path)


def test_todays_docker_save_is_a_layout(made: MadeImage) -> None:
    """An archive of `docker save` 25 or later is read as a layout."""
    for name in ("manifest.json", "repositories"):
        (made.path / name).write_text("[]")
    assert load_image(to_archive(made.path, made.path.parent / "a.tar")).root.descriptor == made.root


@pytest.mark.parametrize("name", ["manifest.json", "repositories"])
def test_legacy_docker_archive_gets_a_hint(tmp_path: Path, name: str) -> None:
    """The error for an archive of an older `docker save` has the command that converts it."""
    path = tmp_path / "old.tar"
    with tarfile.open(path, "w") as tar:
        info = tarfile.TarInfo(name)
        info.size = 2
        tar.addfile(info, io.BytesIO(b"[]"))
    with pytest.raises(InvalidLayoutError, match=f"skopeo copy docker-archive:{path} oci-archive:image.tar"):
        open_layout(path)


def test_layout_in_a_folder_of_the_archive_gets_a_hint(made: MadeImage) -> None:
    """The error for an archive of the layout's folder, not of its content, has a hint."""
    target = made.path.parent / "a.tar"
    with tarfile.open(target, "w") as tar:
        tar.add(made.path, "some/layout")
    with pytest.raises(InvalidLayoutError, match=r"there is one in 'some/layout': .* tar -C"):
        open_layout(target)


def test_archive_of_too_many_members_is_refused(made: MadeImage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tar with more members than any image is refused while its headers are read."""
    monkeypatch.setattr(archive_module, "MEMBERS_MAX", 3)
    with pytest.raises(InvalidLayoutError, match="3 members and more"):
        open_layout(to_archive(made.path, made.path.parent / "a.tar"))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=6))
def test_no_damage_crashes(made: MadeImage, changes: list[tuple[float, int]]) -> None:
    """An archive with any damaged bytes is an image or one of our errors."""
    path = to_archive(made.path, made.path.parent / "a.tar")
    content = bytearray(path.read_bytes())
    for where, byte in changes:
        content[int(where * len(content))] = byte
    path.write_bytes(content)
    try:
        image = load_image(path)
    except InvalidInputError:
        return
    assert image.root.descriptor == made.root


KEYS = ("size", "path", "linkpath", "GNU.sparse.major", "GNU.sparse.map", "GNU.sparse.size", "hdrcharset")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(header=st.fixed_dictionaries({}, optional={key: st.text(max_size=12) for key in KEYS}))
def test_no_extended_header_crashes(made: MadeImage, header: dict[str, str]) -> None:
    """An archive with any pax header is an image or one of our errors."""
    name = member(made.layers[0].digest)
    info = tarfile.TarInfo(name)
    info.pax_headers = header
    try:
        load_image(pack(made, name, info))
    except InvalidInputError:
        return
