"""`crossmount push` of images that are not whole in a folder, some platforms of them, and under several tags."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from crossmount.cli.transfers import same_registry_hint
from crossmount.oci import Digest, Reference
from crossmount.testing import ScriptedRegistry
from crossmount.transfer.report import BlobReport, PushReport
from support.commands import Here, Shell
from support.images import MadeImage, make_layers, make_layout, to_archive
from support.waiting import PATIENCE


@pytest.fixture
def several(tmp_path: Path) -> MadeImage:
    """An image of two platforms."""
    return make_layout(tmp_path / "several", make_layers(2), platforms=("linux/amd64", "linux/arm64"))


def test_platforms_and_tags_are_options(here: Here, registry: ScriptedRegistry, several: MadeImage) -> None:
    """`--platform` and `--tag` are repeatable, and the lines say what was made of them."""
    dest = f"{registry.address}/team/some:1.2"
    tags = ("--tag", "1", "--tag", "latest")
    done = here("push", str(several.path), dest, *tags, "--platform", "linux/arm64", "--plain-http")
    assert done.status == 0
    lines = done.out.splitlines()
    assert lines[2:4] == ["tags 1, latest", "platforms linux/arm64, in a new index with these alone"]
    assert set(registry.holdings.find("team/some").tags) == {"1.2", "1", "latest"}
    wrong = here("push", str(several.path), dest, "--platform", "linux", "--plain-http")
    assert (wrong.status, wrong.complaint.startswith("not a platform: 'linux'")) == (2, True)


def test_a_copy_takes_platforms_too(here: Here, registry: ScriptedRegistry, several: MadeImage) -> None:
    """`copy --platform` makes a new index, and says so."""
    here("push", str(several.path), f"{registry.address}/team/some:1", "--plain-http")
    places = (f"{registry.address}/team/some:1", f"{registry.address}/team/one")
    done = here("copy", *places, "--platform", "linux/amd64", "--plain-http", "--json")
    assert done.document["images"][0]["platforms"] == ["linux/amd64"]


def test_a_layer_that_is_nowhere_is_one_line(here: Here, registry: ScriptedRegistry, several: MadeImage) -> None:
    """A layer that nobody has is status 1 and one line; `--origins` names who may be asked."""
    several.blob_path(several.layers[0].digest).unlink()
    dest = f"{registry.address}/team/some:1"
    done = here("push", str(several.path), dest, "--origins", "far.example", "--plain-http")
    assert done.status == 1
    assert done.complaint.startswith("a layer is not at hand: ")
    assert several.layers[0].digest in done.complaint
    assert "is missing" not in here("locate", str(several.path)).err


@pytest.mark.parametrize("limit", [(), ("--spool-limit", "1K")])
def test_a_tar_is_piped_into_the_command(
    shell: Shell, registry: ScriptedRegistry, several: MadeImage, tmp_path: Path, limit: tuple[str, ...]
) -> None:
    """`docker save | crossmount push -` works, within `--spool-limit`."""
    with to_archive(several.path, tmp_path / "image.tar").open("rb") as tar:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "crossmount", "push", "-", f"{registry.address}/team/some:1"),
                *("--plain-http", "--index", "off", "--json", *limit),
            ],
            stdin=tar,
            capture_output=True,
            env=dict(shell.env),
            check=False,
            timeout=PATIENCE,
        )
    if limit:
        assert done.returncode == 1
        assert b"standard input: more than 1024 bytes" in done.stderr
    else:
        assert json.loads(done.stdout)["digest"] == several.root.digest


@pytest.mark.usefixtures("valkey_index")
def test_one_registry_under_two_names_is_hinted_at(
    here: Here, registry: ScriptedRegistry, several: MadeImage
) -> None:
    """A push that uploads what the index knows on the same port under another name says how to join the names."""
    port = registry.address.rpartition(":")[2]
    image = str(several.path)
    assert "same registry" not in here("push", image, f"127.0.0.1:{port}/team/one:1", "--plain-http").err
    done = here("push", image, f"localhost:{port}/team/two:1", "--plain-http")
    (hint,) = (line for line in done.err.splitlines() if "same registry" in line)
    assert hint.endswith(f"crossmount index same-registry localhost:{port}=127.0.0.1:{port}")
    assert here("index", "same-registry", f"localhost:{port}=127.0.0.1:{port}").status == 0
    assert "same registry" not in here("push", image, f"localhost:{port}/team/three:1", "--plain-http").err


@pytest.mark.parametrize(
    ("other", "hinted"),
    [
        ("r.example.com", True),
        ("far.example.org", False),
        ("localhost:5000", False),
        ("r2.example.com:5000", False),
    ],
)
def test_names_that_do_not_look_like_one_registry_are_not_hinted_at(other: str, hinted: bool) -> None:
    """Registries of other domains or ports are taken for others."""
    blob = BlobReport(digest=Digest.of(b"x"), size=1, outcome="uploaded", elsewhere=(other,))
    reference = Reference.parse("registry.example.com/team/app:1")
    report = PushReport(reference=reference, digest=blob.digest, blobs=(blob,), index="ok", seconds=0.0)
    assert bool(same_registry_hint([report])) is hinted
