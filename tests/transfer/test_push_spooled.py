"""Images that cannot be read in place: on standard input, or compressed."""

import asyncio
import gzip
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import IO, Any

import pytest

from crossmount.errors import InvalidInputError, InvalidLayoutError, MissingExtraError
from crossmount.oci.image_spool import ImageSpool
from crossmount.oci.layout import load_image
from crossmount.testing import ScriptedRegistry
from crossmount.transfer.push import push
from crossmount.transfer.report import PushReport
from support.commands import Shell
from support.copies import OPTIONS
from support.images import MadeImage, make_layers, make_layout, to_archive
from support.waiting import PATIENCE


@pytest.fixture
def image(tmp_path: Path) -> MadeImage:
    """An image of two layers."""
    return make_layout(tmp_path / "layout", make_layers(2, size=200_000), tag="1")


@pytest.fixture
def archive(image: MadeImage, tmp_path: Path) -> bytes:
    """The same image as the bytes of a tar."""
    return to_archive(image.path, tmp_path / "image.tar").read_bytes()


def plain(data: bytes) -> bytes:
    """Do not compress."""
    return data


def two_members(data: bytes) -> bytes:
    """Compress with gzip in two members, as pigz and bgzip do."""
    return gzip.compress(data[:1000]) + gzip.compress(data[1000:])


async def pushed(source: str | Path, registry: ScriptedRegistry, **how: object) -> PushReport:
    """Push an image to team/app:1."""
    return await push(source, f"{registry.address}/team/app:1", options=OPTIONS, **how)  # type: ignore[arg-type]


def open_files() -> int:
    """Return the number of open descriptors of this process."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.fixture
def standard_input(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[bytes], IO[bytes]]:
    """A function that makes some bytes the standard input."""

    def provide(data: bytes) -> IO[bytes]:
        (tmp_path / "input").write_bytes(data)
        file = (tmp_path / "input").open("rb")
        monkeypatch.setattr(sys, "stdin", file)
        return file

    return provide


@pytest.mark.parametrize("packed", [plain, gzip.compress, two_members])
async def test_a_tar_on_standard_input_is_pushed(
    scripted_registry: ScriptedRegistry,
    image: MadeImage,
    archive: bytes,
    standard_input: Callable[[bytes], IO[bytes]],
    packed: Callable[[bytes], bytes],
) -> None:
    """A tar on standard input, plain or compressed, is pushed like a file; nothing of it stays open."""
    for source in ("-", "oci-archive:-", "oci-archive:-:1"):
        with standard_input(packed(archive)):
            before = open_files()
            report = await pushed(source, scripted_registry)
            assert report.digest == image.root.digest
    assert open_files() <= before + 4  # connections


async def test_a_compressed_file_is_pushed(
    scripted_registry: ScriptedRegistry, image: MadeImage, archive: bytes, tmp_path: Path
) -> None:
    """A tar that gzip has packed is unpacked to disk; without a spool it is refused as before."""
    packed = tmp_path / "image.tar.gz"
    packed.write_bytes(gzip.compress(archive))
    assert (await pushed(packed, scripted_registry)).digest == image.root.digest
    assert (await pushed(f"oci-archive:{packed}:1", scripted_registry)).digest == image.root.digest
    with pytest.raises(InvalidLayoutError, match="gunzip"):
        load_image(packed)


async def test_zstd_is_unpacked_by_the_extra(
    scripted_registry: ScriptedRegistry, image: MadeImage, archive: bytes, tmp_path: Path
) -> None:
    """A tar that zstd has packed, in several frames, is pushed, or the error names the extra that is missing."""
    path = tmp_path / "image.tar.zst"
    try:
        zstandard: Any = import_module("zstandard")
    except ImportError:
        path.write_bytes(b"\x28\xb5\x2f\xfd and more")
        with pytest.raises(MissingExtraError, match=r"crossmount\[zstd\]"):
            await pushed(path, scripted_registry)
        return
    data = archive
    path.write_bytes(zstandard.compress(data[:1000]) + zstandard.compress(data[1000:]))
    assert (await pushed(path, scripted_registry)).digest == image.root.digest
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InvalidLayoutError):
        await pushed(path, scripted_registry)
    path.write_bytes(b"\x28\xb5\x2f\xfd" + bytes(range(256)))
    with pytest.raises(InvalidLayoutError, match=r"image.tar.zst: damaged or cut off"):
        await pushed(path, scripted_registry)


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where nothing reads zstd the error says what to install, and what else helps."""
    monkeypatch.setattr(sys, "version_info", (3, 13, 0))
    monkeypatch.setitem(sys.modules, "zstandard", None)
    path = tmp_path / "image.tar.zst"
    path.write_bytes(b"\x28\xb5\x2f\xfd and more")
    with pytest.raises(MissingExtraError, match=r"pip install 'crossmount\[zstd\]'.*unzstd"):
        load_image(path, spool=ImageSpool())


async def test_what_is_no_image_is_told(
    scripted_registry: ScriptedRegistry, archive: bytes, standard_input: Callable[[bytes], IO[bytes]]
) -> None:
    """Damaged, cut, empty and foreign bytes on standard input are errors that name it; nothing is sent."""
    packed = gzip.compress(archive)
    for data, words in (
        (packed[: len(packed) // 2], "standard input: damaged or cut off"),
        (packed[:50] + b"xxxx" + packed[54:], "standard input: damaged or cut off|standard input: not"),
        (b"", "standard input: an empty file"),
        (b"hello " * 500, "standard input: not a tar"),
        (gzip.compress(b"hello " * 500), "standard input: not a tar"),
    ):
        with standard_input(data), pytest.raises(InvalidLayoutError, match=words):
            await pushed("-", scripted_registry)
    assert scripted_registry.requests == []


async def test_a_spooled_tar_is_bounded(
    scripted_registry: ScriptedRegistry, standard_input: Callable[[bytes], IO[bytes]]
) -> None:
    """What unpacks to more than the limit is refused when the limit is reached."""
    bomb = gzip.compress(bytes(50_000_000))
    with standard_input(bomb), pytest.raises(InvalidLayoutError, match=r"more than 10000000 bytes.*--spool-limit"):
        await pushed("-", scripted_registry, spool_limit=10_000_000)
    assert scripted_registry.requests == []


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the folder has no room, or is not there, the error names it and says what to set."""
    real = os.statvfs("/")
    monkeypatch.setattr(os, "fstatvfs", lambda _: os.statvfs_result((*real[:3], *(0,) * 7, real.f_fsid)))
    with pytest.raises(InvalidLayoutError, match=f"x: cannot be spooled in {tmp_path}: less than 64 MiB.*TMPDIR"):
        ImageSpool(folder=tmp_path).create("x").write(b"x")
    with pytest.raises(InvalidLayoutError, match=r"gone: No such file.*TMPDIR"):
        ImageSpool(folder=tmp_path / "gone").create("x")


def test_a_terminal_is_no_source(monkeypatch: pytest.MonkeyPatch) -> None:
    """A push from a terminal, or without standard input, does not wait for somebody to type a tar."""
    ours, theirs = os.openpty()
    with open(theirs) as terminal:  # noqa: PTH123 a descriptor
        monkeypatch.setattr(sys, "stdin", terminal)
        with pytest.raises(InvalidInputError, match="a terminal"):
            load_image("-", spool=ImageSpool())
    os.close(ours)
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(InvalidInputError, match="closed"):
        load_image("-", spool=ImageSpool())


async def test_a_push_that_waits_for_standard_input_is_cancelled(
    scripted_registry: ScriptedRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipe that stays open and sends nothing does not keep a cancelled push alive."""
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as pipe:
        monkeypatch.setattr(sys, "stdin", pipe)
        task = asyncio.create_task(pushed("-", scripted_registry))
        os.write(writing, b"some bytes of a tar")
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.get_running_loop().shutdown_default_executor()
    os.close(writing)


def test_the_command_ends_on_a_signal(shell: Shell, tmp_path: Path) -> None:
    """A push of a pipe that never ends is ended by SIGTERM, with its status, and leaves no file."""
    folder = tmp_path / "spool"
    folder.mkdir()
    command = [sys.executable, "-m", "crossmount", "push", "-", "127.0.0.1:9/a", "--plain-http", "--index", "off"]
    env = {**shell.env, "TMPDIR": str(folder)}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=env) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write(bytes(1_000_000))  # more than a pipe holds: the command has begun to read
        process.stdin.flush()
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 143
        assert b"Traceback" not in process.stderr.read()
        process.stdin.close()
    assert list(folder.iterdir()) == []
