"""The commands and programs of the README and of the documentation work, in the order in which they stand."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from crossmount.embedded import lifecycle as embedded
from crossmount.testing import running_registry
from support.certificates import self_signed
from support.images import make_layers, make_layout, to_archive
from support.pages import PARSED, READ, RUN, Reader, languages, normalise, split_command, write_stand_ins
from support.servers import Server, free_port

TOP = Path(__file__).parents[2]
DOCS = TOP / "src" / "crossmount" / "docs"
PAGES = [TOP / "README.md", *sorted(DOCS.glob("*.md"))]
FOREIGN = ("CROSSMOUNT_", "DOCKER_", "REGISTRY_", "XDG_", "COVERAGE_")


@pytest.fixture
def reader(tmp_path: Path, valkey: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reader]:
    """Somebody with images, two registries, a Redis and free ports; the pages' names stand for those."""
    folder = tmp_path / "work"
    layers = make_layers(2, size=2_000_000, seed="base")
    for name in ("build/image", "api", "web"):
        make_layout(folder / name, [*layers, *make_layers(1, size=1000, seed=name)], tag=None)
    archive = to_archive(folder / "build" / "image", folder / "image.tar")
    (folder / "deploy").symlink_to(TOP / "deploy")
    (tmp_path / "home").mkdir()
    tls, trusted = self_signed(tmp_path)
    programs = write_stand_ins(tmp_path / "programs", archive)
    env = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    env.pop("CI", None)
    env |= {
        "HOME": str(tmp_path / "home"),
        "PATH": os.pathsep.join([str(programs), str(Path(sys.executable).parent), env["PATH"]]),
        "CROSSMOUNT_STATE_DIR": str(tmp_path / "home" / "state"),
        "SSL_CERT_FILE": str(trusted),
        "COLUMNS": "80",
    }
    for name in os.environ:
        if name not in env:
            monkeypatch.delenv(name)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(folder)
    with running_registry(tls=tls) as registry, running_registry(tls=tls) as mirror:
        servers = {
            "registry.example.com": registry.address,
            "mirror.example.com": mirror.address,
            "redis.example.com:6379": f"127.0.0.1:{valkey.port}",
            "redis.example.com -p 6379": f"127.0.0.1 -p {valkey.port}",
            **{
                f"{host}:{number}": f"127.0.0.1:{port}"
                for number, port in ((5000, free_port()), (5001, free_port()), (8080, free_port()))
                for host in ("127.0.0.1", "localhost", "0.0.0.0")  # noqa: S104 pages listen there, tests do not
            },
        }
        following = Reader(folder, env, servers)
        try:
            yield following
        finally:
            following.close()
            embedded.stop(env=env)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_what_a_page_says_works(reader: Reader, page: Path) -> None:
    """Every command and program of a page runs without an error, and prints what the page shows."""
    reader.follow(page)


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_every_block_of_a_page_has_a_language(page: Path) -> None:
    """Each block says what it is, so that no command in it stays untried by accident."""
    assert languages(page) <= {*RUN, *PARSED, *READ}


def test_a_wrong_command_in_a_page_is_found(reader: Reader, tmp_path: Path) -> None:
    """A page with a command that fails, another output or a program with an error fails the test."""
    for block in (
        "```sh\ntrue\nfalse\ntrue\n```",
        "```console\n$ echo done\nfinished\n```",
        "```python\nraise ValueError\n```",
        "```json\n{\n```",
    ):
        page = tmp_path / "page.md"
        page.write_text(f"# Page\n\n{block}\n")
        with pytest.raises(Exception):  # noqa: B017, PT011 whatever a wrong block raises
            reader.follow(page)


def test_a_page_is_followed_from_block_to_block(reader: Reader, tmp_path: Path) -> None:
    """Variables and files of one block are there in the next one."""
    page = tmp_path / "page.md"
    page.write_text(
        "```python\n# hello.py\nprint('hello', 12)\n```\n\n```sh\nexport NAME=hello\n```\n\n"
        "```console\n$ python \\\n  $NAME.py\nhello 7\n```\n"
    )
    assert reader.follow(page) == 3


def test_a_transcript_is_compared_without_what_differs() -> None:
    """Numbers, digests and columns of a transcript may differ, words may not."""
    digest = f"sha256:{'ab' * 32}"
    assert normalise(f"took 1.4 s,  {digest}\n") == normalise(f"took 12 s, sha256:{'0' * 64}")
    assert normalise("mounted 2 blobs") != normalise("uploaded 2 blobs")
    assert split_command("a \\\n b\nout\n") == ("a \\\n b", "out\n")
