"""`crossmount copy`."""

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from crossmount import RegistryUnreachableError
from crossmount.blocking import ClientOptions, push
from crossmount.cli.options import read_size
from crossmount.errors import CopyFailedError, InvalidInputError
from crossmount.testing import Alter, Fault, Reply, ScriptedRegistry, running_registry
from crossmount.transfer.image_copier import read_list
from support.commands import Here, Shell, read_terminal
from support.images import MadeImage
from support.waiting import PATIENCE

OFF = ("--index", "off", "--plain-http")


@pytest.fixture
def a(image: MadeImage) -> Iterator[ScriptedRegistry]:
    """A registry with the image as team/app:1 and team/app:2."""
    with running_registry() as registry:
        for tag in ("1", "2"):
            push(image.path, f"{registry.address}/team/app:{tag}", options=ClientOptions(plain_http=True))
        yield registry


@pytest.fixture
def b() -> Iterator[ScriptedRegistry]:
    """An empty registry."""
    with running_registry() as registry:
        yield registry


def test_a_copy_is_printed_in_lines(
    here: Here, a: ScriptedRegistry, b: ScriptedRegistry, image: MadeImage
) -> None:
    """The output has the image, its digest, the outcomes of its blobs, and where their bytes came from."""
    source, dest = f"{a.address}/team/app:1", f"{b.address}/mirror/app"
    done = here("copy", source, dest, *OFF)
    assert done.status == 0
    lines = done.out.splitlines()
    assert lines[:2] == [f"copied {source} to {dest}:1", f"digest {image.root.digest}"]
    assert [line.split()[:2] for line in lines[2:5]] == [["mounted", "0"], ["already", "there"], ["uploaded", "4"]]
    assert lines[5].startswith("  4 blobs, ")
    assert lines[5].endswith(f"from {a.address}/team/app")
    assert lines[6] == "saved 0 B, 0 % of what would have been uploaded"
    assert lines[7].endswith("index: off")
    lines = done.err.splitlines()
    assert sum(line.endswith(f"uploaded  ({dest})") for line in lines) == 4
    assert lines[-1] == f"copied {source} to {dest}:1"


def test_a_copy_is_printed_as_a_document(here: Here, a: ScriptedRegistry, b: ScriptedRegistry) -> None:
    """`--json` prints one document about all images."""
    done = here("copy", f"{a.address}/team/app", f"{b.address}/mirror/app", "--all-tags", "--json", *OFF)
    document = done.document
    assert [image["reference"] for image in document["images"]] == [f"{b.address}/mirror/app:{n}" for n in "12"]
    assert document["bytes"]["fetched"] > 0
    assert set(b.holdings.find("mirror/app").tags) == {"1", "2"}


def test_a_list_is_copied(here: Here, a: ScriptedRegistry, b: ScriptedRegistry, tmp_path: Path) -> None:
    """`--from` takes lines of a source and its destinations, with comments and empty lines."""
    listed = tmp_path / "list"
    listed.write_text(
        f"# what we mirror\n\n{a.address}/team/app:1 {b.address}/one {b.address}/two:x\n"
        f"{a.address}/team/app:2   {b.address}/three  # the other\n"
    )
    done = here("copy", "--from", str(listed), *OFF, "--json")
    assert done.status == 0
    assert len(done.document["images"]) == 3
    assert b.holdings.find("two").tags.keys() == {"x"}
    assert b.holdings.find("three").tags.keys() == {"2"}


def test_one_that_fails_is_named_and_the_others_arrive(
    shell: Shell, a: ScriptedRegistry, b: ScriptedRegistry
) -> None:
    """If one image fails, standard error names it and why, the document has the others, and the status is 1."""
    b.play(Fault(method="PUT", path="*/two/manifests/*", action=Reply(status=400), times=None))
    done = shell("copy", f"{a.address}/team/app:1", f"{b.address}/one", f"{b.address}/two", *OFF, "--json")
    assert done.status == 1
    assert [set(image) >= {"error"} for image in done.document["images"]] == [False, True]
    failed = [line for line in done.err.splitlines() if line.startswith("crossmount: not copied: 400: ")]
    assert [f"(at {b.address}, {a.address}/team/app:1 to {b.address}/two:1)" in line for line in failed] == [True]
    assert done.err.splitlines()[-1] == "crossmount: 1 of 2 images not copied"


def test_tags_that_cannot_be_listed_are_reported_once(
    here: Here, a: ScriptedRegistry, b: ScriptedRegistry
) -> None:
    """If the tags of the only repository are not listed, one line says why."""
    done = here("copy", f"{a.address}/absent", f"{b.address}/app", "--all-tags", *OFF)
    assert done.status == 1
    assert [line.partition(": 404")[0] for line in done.err.splitlines()] == ["crossmount: not copied"]


def test_the_one_that_fails_says_why_at_the_end(shell: Shell, a: ScriptedRegistry, b: ScriptedRegistry) -> None:
    """If the only image fails, the last line says which and why, the status fits, and no counts are printed."""
    b.play(Fault(method="POST", action=Reply(status=403), times=None))
    done = shell("copy", f"{a.address}/team/app:1", f"{b.address}/app", *OFF)
    assert done.status == 4
    lines = done.err.splitlines()
    assert lines[-1].startswith("crossmount: not copied: 403: ")
    assert f"(at {b.address}, {a.address}/team/app:1 to {b.address}/app:1)" in lines[-1]
    assert sum("not copied" in line for line in lines) == 1
    assert done.out == ""


def test_wrong_bytes_are_reported_unasked(shell: Shell, a: ScriptedRegistry, b: ScriptedRegistry) -> None:
    """A registry whose bytes do not match the digest is named with repository and layer, even without -v."""
    a.play(Fault(method="GET", path="*/blobs/*", action=Alter(corrupt=True), times=None))
    done = shell("copy", f"{a.address}/team/app:1", f"{b.address}/app", *OFF)
    assert done.status == 1
    assert f"crossmount: source {a.address}/team/app of " in done.err
    assert f"{a.address}/team/app sent bytes that do not have the digest sha256:" in done.err.splitlines()[-1]


def test_must_mount_is_status_3_unless_it_may_be_transferred(
    shell: Shell, a: ScriptedRegistry, b: ScriptedRegistry, image: MadeImage, tmp_path: Path
) -> None:
    """A must-mount layer without a mount is status 3; `--allow-transfer` copies it, with or without a cache."""
    layer = image.layers[0].digest
    shell("add", layer, f"{b.address}/elsewhere", "--must-mount")
    command = ("copy", f"{a.address}/team/app:1", f"{b.address}/app", "--plain-http")
    done = shell(*command)
    assert done.status == 3
    assert "--allow-transfer" in done.err.splitlines()[-1]
    two = shell(*command[:3], f"{b.address}/other", "--plain-http")
    assert two.status == 3
    assert two.err.count("--allow-transfer") == 2
    cache = tmp_path / "cache"
    assert shell(*command, "--allow-transfer", "--cache", str(cache), "--cache-size", "1MB").status == 0
    assert (cache / "blobs" / "sha256" / layer.encoded).exists()


def test_somebodys_layout_is_no_cache(
    here: Here, a: ScriptedRegistry, b: ScriptedRegistry, image: MadeImage
) -> None:
    """An image layout that is not a cache is refused before any request, and keeps its blobs."""
    before = sorted(image.path.rglob("*"))
    done = here("copy", f"{a.address}/team/app:1", f"{b.address}/app", *OFF, "--cache", str(image.path))
    assert done.status == 2
    assert done.complaint == f"{image.path}: not a cache of ours: give an empty or absent folder"
    assert sorted(image.path.rglob("*")) == before


def test_a_size_from_the_environment_needs_no_cache(
    shell: Shell, a: ScriptedRegistry, b: ScriptedRegistry
) -> None:
    """CROSSMOUNT_CACHE_SIZE is accepted by a copy without a cache."""
    command = ("copy", f"{a.address}/team/app:1", f"{b.address}/app", *OFF)
    assert shell(*command, CROSSMOUNT_CACHE_SIZE="1GB").status == 0


@pytest.mark.parametrize("term", ["xterm", "dumb"])
def test_one_terminal_prints_each_image_once(
    shell: Shell, a: ScriptedRegistry, b: ScriptedRegistry, term: str
) -> None:
    """On one terminal, an image that standard error named is not named again on standard output."""
    ours, theirs = pty.openpty()
    dests = [f"{b.address}/one", f"{b.address}/two"]
    command = [sys.executable, "-m", "crossmount", "copy", f"{a.address}/team/app:1", *dests, *OFF]
    env = {**shell.env, "TERM": term, "COLUMNS": "200", "LINES": "24"}
    try:
        with subprocess.Popen(command, stdout=theirs, stderr=theirs, env=env) as process:
            os.close(theirs)
            drawn = read_terminal(ours)
    finally:
        os.close(ours)
    assert process.returncode == 0
    for dest in dests:
        assert drawn.count(f"copied {a.address}/team/app:1 to {dest}:1") == 1
    assert "index: off" in drawn


def test_a_cache_that_does_not_serve_is_one_warning(
    here: Here, a: ScriptedRegistry, b: ScriptedRegistry, tmp_path: Path
) -> None:
    """If the cache fails, one warning is printed and the copy continues without it."""
    (tmp_path / "parent").write_text("a file")
    where = tmp_path / "parent" / "cache"
    done = here("copy", f"{a.address}/team/app:1", f"{b.address}/app", *OFF, "--cache", str(where))
    assert done.status == 0
    assert done.err.count("copying without the cache") == 1


def test_http_is_allowed_registry_by_registry(here: Here, a: ScriptedRegistry, b: ScriptedRegistry) -> None:
    """`--plain-http-for` allows http only for the registries that it names."""
    command = ("copy", f"{a.address}/team/app:1", f"{b.address}/app", "--index", "off")
    both = ("--plain-http-for", a.address, "--plain-http-for", b.address)
    assert here(*command, *both).status == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["a/b:1"], "give SOURCE and DEST"),
        ([], "give SOURCE and DEST"),
        (["a/b:1", "b/c:1", "--all-tags"], "give the repository alone"),
        (["docker://a/b:1", "b/c"], "leave docker:// out"),
        (["a/b", "b/c", "--cache-size", "much"], "is not a size"),
        (["a/b", "b/c", "--cache-size", "1GB"], "--cache-size needs --cache"),
        (["oci:dir", "b/c:1"], "copy works between registries: use crossmount push for a layout"),
        (["a/b", "oci:/some/dir:1"], "copy works between registries: use crossmount push for a layout"),
        (["a/b", "b/c", "--prefer", "a b"], "not a registry"),
        (["a/b", "b/c", "--images", "0"], "give a whole number"),
    ],
)
def test_wrong_usage_is_reported(here: Here, arguments: list[str], said: str) -> None:
    """Wrong usage is status 2 and one line, before any request."""
    done = here("copy", *arguments)
    assert done.status == 2
    assert said in done.complaint


def test_a_wrong_list_is_reported_with_its_line(here: Here, tmp_path: Path) -> None:
    """An error in a list names file and line; an empty list, and a list beside arguments, are usage errors."""
    listed = tmp_path / "list"
    listed.write_text("a/b:1 b/c\n\na/b:1\n")
    assert f"{listed}:3: " in here("copy", "--from", str(listed)).complaint
    listed.write_text("# nothing\n")
    assert "it lists nothing" in here("copy", "--from", str(listed)).complaint
    assert "not both" in here("copy", "a/b", "c/d", "--from", str(listed)).complaint
    for content in (b"a/b:1 \xff\xfe", b"x" * 70_000):
        listed.write_bytes(content)
        done = here("copy", "--from", str(listed))
        assert done.status == 2
        assert f"{listed}: not a list" in done.complaint


def test_an_interrupt_says_how_far_it_came(shell: Shell, a: ScriptedRegistry, b: ScriptedRegistry) -> None:
    """Ctrl-C cancels upload sessions, and the last line counts the copied images."""
    b.play(Fault(method="PUT", path="*/two/*", delay=30.0, times=None))
    process = shell.start("copy", f"{a.address}/team/app:1", f"{b.address}/one", f"{b.address}/two", *OFF)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("copied "):
            break
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert "1 image copied, the others not" in err.splitlines()[-1]
    assert b.open_sessions == ()


@pytest.mark.parametrize(
    ("words", "size"),
    [("1000", 1000), ("10GB", 10 * 2**30), ("2GiB", 2 * 2**30), (" 5 mb ", 5 * 2**20), ("4k", 4096)],
)
def test_sizes_are_read(words: str, size: int) -> None:
    """Units of sizes are powers of 1024, in upper or lower case."""
    assert read_size(words) == size


@pytest.mark.parametrize("words", ["", "-1", "x", "1 XB", "1e9", "9" * 30])
def test_what_is_no_size_is_refused(words: str) -> None:
    """Anything else is refused as a size."""
    with pytest.raises(InvalidInputError):
        read_size(words)


def test_lists_name_all_tags_or_images() -> None:
    """With `--all-tags`, the lines of a list name repositories."""
    (job,) = read_list(["a.example/x b.example/y"], where="list", all_tags=True)
    assert job.all_tags
    with pytest.raises(InvalidInputError, match="list:1: "):
        read_list(["a.example/x:1 b.example/y"], where="list", all_tags=True)


def test_errors_of_a_copy_survive_pickling() -> None:
    """A CopyFailedError can be pickled and sent to another process."""
    import pickle  # noqa: PLC0415 beside its use

    for error in (CopyFailedError("words", report=None), RegistryUnreachableError("words")):
        again = pickle.loads(pickle.dumps(error))  # noqa: S301 our own
        assert (type(again), str(again)) == (type(error), "words")
