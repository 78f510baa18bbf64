"""`crossmount push --from FILE`."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from crossmount.testing import Fault, Reply, ScriptedRegistry, running_registry
from support.commands import Here, Shell
from support.images import MadeImage, make_layout

HTTP = ("--plain-http", "--index", "memory://")


@pytest.fixture
def registry() -> Iterator[ScriptedRegistry]:
    """Run a registry."""
    with running_registry() as running:
        yield running


@pytest.fixture
def images(tmp_path: Path) -> list[MadeImage]:
    """Make three images."""
    return [make_layout(tmp_path / f"image-{number}", [b"%d" % number * 1000]) for number in range(3)]


@pytest.fixture
def listed(tmp_path: Path, images: list[MadeImage], registry: ScriptedRegistry) -> Path:
    """Write a list of the three images."""
    path = tmp_path / "list"
    lines = [f"oci:{image.path} {registry.address}/app-{number}:1" for number, image in enumerate(images)]
    path.write_text("\n".join(["# what this job builds", "", *lines, ""]))
    return path


def test_a_list_is_pushed(here: Here, registry: ScriptedRegistry, listed: Path) -> None:
    """`--from` takes lines of a source and a destination, and the report has a line for each image."""
    done = here("push", "--from", str(listed), *HTTP)
    assert done.status == 0, done.err
    assert done.out.splitlines()[:3] == [f"pushed {registry.address}/app-{number}:1" for number in range(3)]
    assert all(set(registry.holdings.find(f"app-{number}").tags) == {"1"} for number in range(3))


def test_one_document_reports_all_images(here: Here, listed: Path, images: list[MadeImage]) -> None:
    """`--json` prints one document with all images in the order of the list, and the sums."""
    document = here("push", "--from", str(listed), *HTTP, "--json", "--tag", "also", "--images", "1").document
    assert [image["digest"] for image in document["images"]] == [str(image.root.digest) for image in images]
    assert [image["tags"] for image in document["images"]] == [["also"]] * 3
    assert document["bytes"]["uploaded"] == sum(blob.size for image in images for blob in image.blobs)
    assert document["index"] == "ok"


def test_one_that_fails_is_named_and_the_others_arrive(
    shell: Shell, registry: ScriptedRegistry, listed: Path
) -> None:
    """If one image fails, standard error names it and why, the document has the others, and the status is 1."""
    registry.play(Fault(method="PUT", path="*/app-1/manifests/*", action=Reply(status=400), times=None))
    done = shell("push", "--from", str(listed), *HTTP, "--json")
    assert done.status == 1
    assert [set(image) >= {"error"} for image in done.document["images"]] == [False, True, False]
    lines = done.err.splitlines()
    assert sum(line.startswith("crossmount: not pushed: ") and "/app-1:1)" in line for line in lines) == 1
    assert lines[-1] == "crossmount: 1 of 3 images not pushed"


def test_a_layout_that_is_not_there_does_not_stop_the_others(
    here: Here, registry: ScriptedRegistry, listed: Path
) -> None:
    """A source that cannot be read is one failure of the list."""
    listed.write_text(f"oci:absent {registry.address}/absent:1\n{listed.read_text()}")
    done = here("push", "--from", str(listed), *HTTP)
    assert done.status == 1
    assert "1 of 4 images not pushed" in done.err
    assert done.out.count("pushed ") == 3


def test_if_all_fail_alike_the_status_says_why(here: Here, registry: ScriptedRegistry, listed: Path) -> None:
    """If the registry denies all images, the status is that of a denied push, and no report is printed."""
    registry.play(Fault(method="POST", action=Reply(status=403), times=None))
    done = here("push", "--from", str(listed), *HTTP)
    assert (done.status, done.out) == (4, "")
    assert done.err.splitlines()[-1] == "crossmount: 3 of 3 images not pushed"


def test_a_list_of_one_says_why_it_failed(here: Here, registry: ScriptedRegistry, listed: Path) -> None:
    """A list of one image that fails ends with the reason."""
    listed.write_text(f"oci:absent {registry.address}/absent:1\n")
    done = here("push", "--from", str(listed), *HTTP)
    assert done.status == 1
    assert done.err.splitlines()[-1].startswith("crossmount: not pushed: absent: no such file")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", ": it lists nothing to push"),
        ("# nothing\n", ": it lists nothing to push"),
        ("image\n", ":1: image: give a destination too"),
        ("\nimage r.example/a:1 r.example/b:1\n", ":2: image: give one destination a line"),
        ("- r.example/a:1\n", ":1: -: a list has no images of standard input: give a file"),
        ("image r.example/A:1\n", ":1: "),
    ],
)
def test_a_wrong_list_is_reported_with_its_line(here: Here, tmp_path: Path, content: str, said: str) -> None:
    """An error in a list names file and line, before any request, and is status 2."""
    path = tmp_path / "wrong"
    path.write_text(content)
    done = here("push", "--from", str(path))
    assert done.status == 2
    assert f"{path}{said}" in done.complaint


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "give SOURCE and DEST, or --from FILE: see crossmount push --help"),
        (("image",), "give SOURCE and DEST, or --from FILE: see crossmount push --help"),
        (("image", "r.example/a", "--from", "-"), "give SOURCE and DEST, or --from FILE, not both"),
    ],
)
def test_a_list_or_an_image_is_given(here: Here, arguments: tuple[str, ...], said: str) -> None:
    """Either an image and its destination or a list is given."""
    done = here("push", *arguments)
    assert done.status == 2
    assert said in done.complaint
