"""`--summary`: what a push or a copy saved, as Markdown for a CI job's page."""

from pathlib import Path

import pytest

from crossmount.testing import Fault, Reply, ScriptedRegistry
from support.commands import Here
from support.images import MadeImage
from support.servers import Server


def test_a_summary_is_appended(
    here: Here, image: MadeImage, registry: ScriptedRegistry, valkey: Server, tmp_path: Path
) -> None:
    """Each push appends its own lines; what was in the file stays."""
    file = tmp_path / "summary.md"
    file.write_text("# My job\n\n")
    for name in ("one", "two"):
        dest = f"{registry.address}/team/{name}:1"
        here("push", f"oci:{image.path}", dest, "--plain-http", "--index", valkey.url, "--summary", str(file))
    written = file.read_text()
    assert written.startswith("# My job\n\n### crossmount: pushed `")
    assert "**saved 0 B, 0 % of what would have been uploaded**" in written
    assert "100 % of what would have been uploaded**" in written
    assert "| mounted | 4 |" in written
    assert "| uploaded | 4 |" in written
    assert written.count("index: ok\n") == 2


def test_the_summary_of_a_github_job_is_found(
    here: Here, image: MadeImage, registry: ScriptedRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an option the file of GITHUB_STEP_SUMMARY is used; CROSSMOUNT_SUMMARY comes before it."""
    file, other = tmp_path / "github.md", tmp_path / "own.md"
    line = ("push", f"oci:{image.path}", f"{registry.address}/team/app:1", "--plain-http", "--index", "off")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(file))
    here(*line)
    assert "### crossmount: pushed" in file.read_text()
    monkeypatch.setenv("CROSSMOUNT_SUMMARY", str(other))
    here(*line)
    assert file.read_text().count("###") == 1
    assert "| already there | 4 |" in other.read_text()


def test_a_summary_that_cannot_be_written_is_a_warning(
    here: Here, image: MadeImage, registry: ScriptedRegistry, tmp_path: Path
) -> None:
    """A push succeeds also where its summary does not."""
    file = tmp_path / "no-folder" / "summary.md"
    dest = f"{registry.address}/team/app:1"
    done = here("push", f"oci:{image.path}", dest, "--plain-http", "--index", "off", "--summary", str(file))
    assert done.status == 0
    assert f"warning: the summary cannot be written to {file}: No such file or directory" in done.err


def test_a_copy_has_a_summary_also_if_it_fails(
    here: Here, image: MadeImage, registry: ScriptedRegistry, tmp_path: Path
) -> None:
    """The summary of a copy says how many images were copied, and how many were not."""
    file = tmp_path / "summary.md"
    source, base = f"{registry.address}/team/app:1", ("--plain-http", "--index", "off")
    here("push", f"oci:{image.path}", source, *base)
    here("copy", source, f"{registry.address}/mirror/app:1", *base, "--summary", str(file))
    assert "### crossmount: 1 image copied\n" in file.read_text()
    registry.play(Fault(action=Reply(status=403, code="DENIED"), method="PUT", path="*/bad/app/manifests/*"))
    dests = (f"{registry.address}/good/app:1", f"{registry.address}/bad/app:1")
    assert here("copy", source, *dests, *base, "--summary", str(file)).status == 4
    assert "### crossmount: 1 image copied, 1 failed\n" in file.read_text()
