import asyncio
import io
import os
import re
import signal
import sys
import tempfile
from contextlib import aclosing
from pathlib import Path

import click
import httpx
import pytest

from crossmount.cli import page as demo_page
from crossmount.cli.demo import command as demo
from crossmount.cli.demo import pushes as demo_pushes
from crossmount.cli.demo import registry as demo_registry
from crossmount.cli.demo.pushes import IMAGES, DemoImage, Pushed, Pushes, make_images
from crossmount.cli.demo.registry import child
from crossmount.cli.progress.transfer import index_warning
from crossmount.index import open_index
from crossmount.index.protocol import backing_server
from crossmount.oci import Repository
from crossmount.oci.layout import load_image
from crossmount.redis.execute import scan_keys
from support.commands import SECONDS, Here, Shell
from support.dashboards import AccountingIndex, Clock, site_over
from support.programs import needs
from support.registries import run


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The demo has small layers, and its temporary files are in a folder of the test."""
    monkeypatch.setattr("crossmount.cli.demo.pushes.SHARED", dict.fromkeys(("base", "runtime", "libraries"), 9000))
    monkeypatch.setattr("crossmount.cli.demo.pushes.OWN", 1000)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[str, ...]]:
    """Three images instead of eight, for what does not depend on their number."""
    images = {name: IMAGES[name] for name in ("api", "web", "worker")}
    monkeypatch.setattr("crossmount.cli.demo.pushes.IMAGES", images)
    monkeypatch.setattr("crossmount.cli.demo.command.IMAGES", images)
    return images


def left(tmp_path: Path) -> list[str]:
    """Return the remaining files of the demo."""
    return [path.name for path in (tmp_path / "temporary").iterdir()]


def test_the_images_are_real_and_the_same_each_time(tmp_path: Path) -> None:
    """Skopeo can read the images, and two runs make the same bytes."""
    images = make_images(tmp_path / "one")
    make_images(tmp_path / "two")
    assert [image.name for image in images] == list(IMAGES)
    assert (tmp_path / "one" / "index.json").read_bytes() == (tmp_path / "two" / "index.json").read_bytes()
    for image in images:
        read = load_image(f"oci:{tmp_path / 'one'}:{image.name}")
        assert sum(blob.descriptor.size for blob in read.blobs) == image.size
    run("skopeo", "copy", f"oci:{tmp_path / 'one'}:web", f"dir:{tmp_path / 'copy'}")


@pytest.mark.parametrize("kind", ["docker-registry", "crossmount.testing"])
def test_the_demo_counts_uploaded_bytes(
    here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, kind: str
) -> None:
    """With either registry every byte is uploaded once, the rest is mounted, and no file or process remains."""
    made = IMAGES
    if kind == "docker-registry":
        needs(kind)
    else:
        made = request.getfixturevalue("few")
        monkeypatch.setattr("crossmount.cli.demo.registry.shutil.which", lambda _: None)
    done = here("demo", "--json")
    assert (done.status, done.err) == (0, "")
    document = done.document
    assert document["registry"] == kind
    assert len(document["images"]) == len(made)
    sizes = document["bytes"]
    once = len({part for image in made.values() for part in image}) * 9000 + len(made) * 1000
    assert (
        once < sizes["uploaded"] < sizes["images"] == sum(image["bytes"]["image"] for image in document["images"])
    )
    assert sizes["uploaded"] <= sizes["received"]
    for image in document["images"]:
        assert image["bytes"]["uploaded"] + image["bytes"]["mounted"] == image["bytes"]["image"]
    assert sum(image["bytes"]["mounted"] > 0 for image in document["images"]) == len(made) - 1
    assert left(tmp_path) == []
    state = here("index", "status", "--json").document
    assert state["running"] is True


@pytest.mark.usefixtures("few")
def test_the_demo_is_printed_in_eighty_columns(here: Here) -> None:
    """The output fits eighty columns and has the pushes, the bytes with and without mounts, and what remains."""
    done = here("demo")
    assert (done.status, done.err) == (0, "")
    lines = done.out.splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert lines[0].startswith("3 images for 3 repositories, ")
    assert any(line.startswith("without mounts  ####") for line in lines)
    assert any(line.startswith("with crossmount ####") for line in lines)
    assert "crossmount index stop" in lines[-1]


def test_the_demo_ends_by_itself_where_nobody_looks(here: Here) -> None:
    """Outside a terminal no page is served; the output says how to see it, and no key of the demo remains."""
    done = here("demo")
    assert done.status == 0
    assert "crossmount demo --page shows these numbers in a browser." in done.out.splitlines()
    assert "http://127.0.0.1" not in done.out.partition("with crossmount")[2]
    assert asyncio.run(keys_of_demos()) == []


async def keys_of_demos() -> list[bytes]:
    """Return the keys of demos in the embedded index, those aside that live for seconds."""
    async with open_index("embedded:") as index:
        server = backing_server(index)
        assert server is not None
        async with aclosing(scan_keys(server.link, "crossmount:demo-*")) as keys:
            return [key async for key in keys if b":lease:" not in key and b":waiters:" not in key]


def test_the_page_of_the_demo_ends_when_nobody_looks(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    """With --page its address is printed; without a look in time the demo ends as ever."""
    monkeypatch.setattr(demo_page, "LOOK_SECONDS", 0.0)
    done = here("demo", "--page")
    assert (done.status, done.err) == (0, "")
    assert "These numbers on a page: http://127.0.0.1:" in done.out
    assert "are removed." in done.out


def test_the_page_of_the_demo_has_its_numbers(shell: Shell) -> None:
    """The page shows what the demo's pushes saved; Ctrl-C then ends the demo with status 0, and all is removed."""
    with shell.start("demo", "--page") as process:
        assert process.stdout is not None
        lines: list[str] = []
        while not (lines and lines[-1].startswith("These numbers on a page: ")):
            lines.append(process.stdout.readline())
            assert process.poll() is None
        page = httpx.get(lines[-1].partition("page: ")[2].strip()).text
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=SECONDS)
    assert (process.returncode, err) == (0, "")
    assert "are removed." in out
    assert "namespace <strong><bdi>demo-" in page
    (uploaded,) = re.findall(r"with crossmount \S+ +(\S+ \S+) uploaded", "".join(lines))
    saved = re.findall(r'data-bytes="(\d+)"', page)
    assert int(saved[0]) > 0
    assert f"<dt>Uploaded</dt><dd>{uploaded}</dd>" in page


async def test_a_look_prolongs_the_page_by_a_minute() -> None:
    """The wait ends a minute after the last request for the page, or at once when it is cancelled."""
    clock, pauses = Clock(0.0), []

    async def sleep(seconds: float) -> None:
        clock.now += seconds
        pauses.append(seconds)
        if len(pauses) == 1:
            clock.now -= 30.0
            await watched.answer("", b"", names=True)

    async with site_over(AccountingIndex(), clock=Clock()) as site:
        watched = demo_page.WatchedPage(site, clock=clock)
        await watched.until_unwatched(sleep)
        assert pauses == [60.0, 60.0]
        looking = asyncio.create_task(demo_page.WatchedPage(site, clock=clock).until_unwatched())
        await asyncio.sleep(0)
        looking.cancel()
        await looking


@pytest.mark.parametrize(
    ("terminal", "ci", "looks"), [(True, "", True), (True, "true", False), (False, "", False)]
)
def test_a_person_at_a_terminal_may_look(
    monkeypatch: pytest.MonkeyPatch, *, terminal: bool, ci: str, looks: bool
) -> None:
    """The page is shown by default in a terminal, and never in a CI job."""
    monkeypatch.setenv("CI", ci)
    monkeypatch.setattr(sys, "stdin", Terminal(terminal))
    monkeypatch.setattr(sys, "stdout", Terminal(terminal))
    assert demo_page.somebody_may_look() is looks


class Terminal(io.StringIO):
    """A stream that is a terminal, or is not."""

    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        """Return whether it is a terminal."""
        return self._terminal


@pytest.mark.parametrize("url", ["off", "memory://"])
def test_the_demo_needs_an_index_that_can_be_shared(here: Here, url: str) -> None:
    """Without an index, or with one in memory, the demo is a usage error."""
    done = here("demo", "--index", url)
    assert done.status == 2
    assert "omit --index" in done.complaint


def test_an_index_that_does_not_serve_is_reported_before_anything_is_pushed(here: Here, tmp_path: Path) -> None:
    """An unreachable index is one line and status 1, and no file remains."""
    done = here("demo", "--index", "redis://127.0.0.1:1")
    assert done.status == 1
    assert "does not answer" in done.complaint
    assert left(tmp_path) == []


def test_a_registry_that_does_not_start_is_reported(
    here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the registry does not start, the error has the last line of its output."""
    broken = tmp_path / "docker-registry"
    broken.write_text("#!/bin/sh\necho no storage today >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    done = here("demo")
    assert done.status == 1
    assert done.complaint == "the demo's registry, docker-registry, does not start: no storage today"
    assert left(tmp_path) == []


def test_a_ctrl_c_leaves_no_process_and_no_file(shell: Shell, tmp_path: Path) -> None:
    """After Ctrl-C the registry, the pushes and the files are gone."""
    temporary = tmp_path / "temporary"
    with shell.start("demo", TMPDIR=str(temporary)) as process:
        assert process.stdout is not None
        while "Yesterday's build" not in process.stdout.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 130
    assert err == "crossmount: interrupted: the demo's processes and files are removed\n"
    assert left(tmp_path) == []
    assert processes_that_name(str(temporary)) == []


def processes_that_name(text: str) -> list[str]:
    """Return the command lines that contain `text`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:  # it has just ended
                continue
            if text in command:
                found.append(command)
    return found


async def test_a_push_that_fails_ends_the_demo_with_its_words(tmp_path: Path, shell: Shell) -> None:
    """The error of a failed push is the error of the demo, and the other pushes are ended."""
    del shell
    images = make_images(tmp_path / "images")
    pushes = Pushes(layout=tmp_path / "absent", address="127.0.0.1:1", index="off", namespace="demo")
    with pytest.raises(click.ClickException) as caught:
        await pushes.run(images, lambda _: None)
    assert "pushing 127.0.0.1:1/demo/api: " in caught.value.message
    assert "no such file or directory" in caught.value.message


async def test_one_failure_of_the_seven_is_the_failure(
    tmp_path: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first of the parallel pushes to fail cancels the others."""
    del shell

    async def pushed(self: Pushes, image: DemoImage) -> Pushed:
        if image.name == "api":
            return PUSHED
        if image.name == "web":
            raise click.ClickException("web fails")
        await asyncio.Event().wait()
        raise AssertionError(self)

    monkeypatch.setattr(Pushes, "_push", pushed)
    pushes = Pushes(layout=tmp_path, address="127.0.0.1:1", index="off", namespace="demo")
    with pytest.raises(click.ClickException, match="web fails"):
        await pushes.run(make_images(tmp_path / "images"), lambda _: None)


PUSHED = Pushed(
    image="api",
    repository=Repository("r.example", "demo/api"),
    size=100,
    uploaded=0,
    mounted=100,
    index="degraded",
    seconds=1.0,
    blobs=(),
    trouble="index at x does not answer",
)


def test_an_index_that_failed_in_between_is_reported_at_the_end() -> None:
    """If the index failed during a push, the output says that the numbers are not typical, and why."""
    outcome = demo.DemoResult(registry="r", namespace="n", received=1, pushes=[PUSHED])
    lines = demo._numbers(outcome)
    words = " ".join(lines)
    assert "The index failed during 1 push: index at x does not answer. This machine" in words
    assert "the index has 0.5 s to answer. Run it again." in words
    assert all(len(line) <= 80 for line in lines)
    assert not any("times less" in line or "index stop" in line for line in lines)


def test_a_push_s_warning_is_the_demo_s_cause() -> None:
    """The cause of an index failure is found in a push's standard error."""
    images = DemoImage("api", 100)
    said = f"a line\n{index_warning('gone')}\n"
    report = {"bytes": {"uploaded": 1, "mounted": 0}, "index": "degraded", "seconds": 1.0, "blobs": []}
    repository = Repository("r.example", "demo/api")
    assert demo_pushes._parse_report(images, repository, report, said).trouble == "gone"
    assert demo_pushes._parse_report(images, repository, report, "a line\n").trouble == ""


def test_proxies_of_the_environment_do_not_lead_the_demo_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pushes reach the registry directly, even if the environment names an HTTP proxy."""
    pushes = Pushes(layout=Path(), address="127.0.0.1:1", index="off", namespace="demo")
    monkeypatch.setenv("no_proxy", "x.example")
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert pushes._environment()["NO_PROXY"] == "x.example,127.0.0.1,localhost"
    monkeypatch.delenv("no_proxy")
    assert pushes._environment()["NO_PROXY"] == "127.0.0.1,localhost"


async def test_a_child_that_does_not_end_is_made_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child process that ignores SIGTERM is killed."""
    monkeypatch.setattr(demo_registry, "END_SECONDS", 0.05)
    stubborn = (
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); signal.pause()"
    )
    async with child([sys.executable, "-c", stubborn]) as process:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"up\n"
    assert process.returncode == -signal.SIGKILL


async def test_a_registry_that_says_nothing_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wait for a registry that prints nothing ends with an error."""
    monkeypatch.setattr(demo_registry, "START_SECONDS", 0.05)
    monkeypatch.setattr(
        demo_registry,
        "_command",
        lambda _: ("docker-registry", [sys.executable, "-c", "import signal; signal.pause()"]),
    )
    with pytest.raises(click.ClickException, match="no output"):
        async with demo_registry.demo_registry(tmp_path / "registry"):
            pass


async def test_the_counter_closes_a_connection_when_the_registry_is_gone() -> None:
    """If the registry is gone, the counter closes new connections."""
    async with demo_registry._counter(demo_registry.CountedRegistry("none"), 1) as counted:
        reader, writer = await asyncio.open_connection(*counted.address.split(":"))
        try:
            assert await reader.read() == b""
        finally:
            writer.close()
            await writer.wait_closed()
