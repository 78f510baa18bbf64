"""Images of a Docker engine, which is a small fake of its API here."""

import asyncio
import json
import tarfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from crossmount.errors import InvalidInputError, InvalidLayoutError, InvalidReferenceError
from crossmount.testing import ScriptedRegistry
from crossmount.testing.acceptor import Acceptor
from crossmount.transfer.docker_engine import EngineAddress, image_name
from crossmount.transfer.push import push
from crossmount.transfer.report import PushReport
from support.copies import OPTIONS
from support.images import MadeImage, make_layers, make_layout, to_archive


@pytest.fixture
def image(tmp_path: Path) -> MadeImage:
    """An image of two layers."""
    return make_layout(tmp_path / "layout", make_layers(2, size=200_000), tag="1")


@pytest.fixture
def archive(image: MadeImage, tmp_path: Path) -> bytes:
    """The same image as the bytes of a tar."""
    return to_archive(image.path, tmp_path / "image.tar").read_bytes()


async def pushed(source: str | Path, registry: ScriptedRegistry, **how: object) -> PushReport:
    """Push an image to team/app:1."""
    return await push(source, f"{registry.address}/team/app:1", options=OPTIONS, **how)  # type: ignore[arg-type]


@asynccontextmanager
async def engine(
    socket: Path, *, saves: dict[str, bytes], cut: bool = False, asked: list[str] | None = None
) -> AsyncIterator[str]:
    """Run a fake of the part of Docker's API that a save uses, and yield its `DOCKER_HOST`."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        path = head.split()[1]
        if asked is not None:
            asked.append(path)
        name = path.removeprefix("/images/").removesuffix("/get")
        data = saves.get(name)
        if data is None:
            body = json.dumps({"message": f"No such image: {name}"}).encode()
            writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        else:
            size = len(data)
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % size)
            writer.write(data[: size // 2] if cut else data + b"\r\n0\r\n\r\n")
        await writer.drain()

    async with Acceptor(answer) as acceptor:
        await acceptor.open_unix(str(socket))
        yield f"unix://{socket}"


async def test_an_image_of_an_engine_is_pushed(
    scripted_registry: ScriptedRegistry,
    image: MadeImage,
    archive: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`docker-daemon:NAME` is what the fake engine saves: one tag of a name, or an image's ID."""
    asked: list[str] = []
    identity = "0123456789ab"
    saves = dict.fromkeys(("app:1", "r.example:5000/team/app:latest", identity), archive)
    async with engine(tmp_path / "socket", saves=saves, asked=asked) as host:
        monkeypatch.setenv("DOCKER_HOST", host)
        for name in ("app:1", "r.example:5000/team/app", identity):
            report = await pushed(f"docker-daemon:{name}", scripted_registry)
            assert report.digest == image.root.digest
        with pytest.raises(InvalidLayoutError, match="does not send gone:latest: No such image: gone:latest"):
            await pushed("docker-daemon:gone", scripted_registry)
    assert asked[1] == "/images/r.example:5000/team/app:latest/get"


async def test_an_older_engine_gets_the_way_round(
    scripted_registry: ScriptedRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The save of an engine before Docker 25 is refused, and the error has the command that helps."""
    old = tmp_path / "old"
    old.mkdir()
    for name in ("manifest.json", "repositories"):
        (old / name).write_text("[]")
    with tarfile.open(tmp_path / "old.tar", "w") as tar:
        tar.add(old, arcname=".")
    saved = (tmp_path / "old.tar").read_bytes()
    async with engine(tmp_path / "socket", saves={"app:1": saved}) as host:
        monkeypatch.setenv("DOCKER_HOST", host)
        with pytest.raises(
            InvalidLayoutError, match=r"older than Docker 25.*skopeo copy docker-daemon:app:1 oci-archive:"
        ):
            await pushed("docker-daemon:app:1", scripted_registry)
    assert scripted_registry.requests == []


async def test_an_engine_that_does_not_answer_is_told(
    scripted_registry: ScriptedRegistry, archive: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine that is not there, or cuts its answer, is an error; so is a limit that is too low."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nothing")
    with pytest.raises(InvalidLayoutError, match=f"no Docker engine answers at {tmp_path}/nothing"):
        await pushed("docker-daemon:app:1", scripted_registry)
    async with engine(tmp_path / "socket", saves={"app:1": archive}, cut=True) as host:
        monkeypatch.setenv("DOCKER_HOST", host)
        with pytest.raises(InvalidLayoutError, match=r"answers at .*socket"):
            await pushed("docker-daemon:app:1", scripted_registry)
    async with engine(tmp_path / "other", saves={"app:1": archive}) as host:
        monkeypatch.setenv("DOCKER_HOST", host)
        with pytest.raises(InvalidLayoutError, match="--spool-limit"):
            await pushed("docker-daemon:app:1", scripted_registry, spool_limit=1000)
    assert scripted_registry.requests == []


@pytest.mark.parametrize(
    ("environment", "address"),
    [
        ({}, "/var/run/docker.sock"),
        ({"DOCKER_HOST": "unix:///run/user/1/docker.sock"}, "/run/user/1/docker.sock"),
        ({"DOCKER_HOST": "tcp://10.0.0.1:2375"}, "http://10.0.0.1:2375"),
        ({"DOCKER_HOST": "tcp://10.0.0.1:2376", "DOCKER_TLS_VERIFY": "1"}, "https://10.0.0.1:2376"),
        ({"DOCKER_HOST": "https://user:secret@engine.example"}, "https://***@engine.example"),
        ({"DOCKER_HOST": "tcp://user:sec/ret@engine.example:1"}, "http://***@engine.example:1"),
        ({"DOCKER_HOST": "unix://user:secret@/docker.sock"}, "***@/docker.sock"),
    ],
)
def test_the_engine_is_where_docker_looks_for_it(environment: dict[str, str], address: str) -> None:
    """`DOCKER_HOST` is read as docker reads it, and a password in it is not repeated."""
    assert str(EngineAddress.of(environment)) == address


def test_what_names_no_engine_and_no_image_is_refused() -> None:
    """A kind of `DOCKER_HOST` that cannot be used gets a way round, and a name that is none is an error."""
    with pytest.raises(InvalidInputError, match=r"docker save -o image.tar"):
        EngineAddress.of({"DOCKER_HOST": "ssh://me@engine.example"})
    with pytest.raises(InvalidReferenceError):
        image_name("docker-daemon:")
