"""The READMEs of deploy/: their commands and references work."""

import re
import subprocess
from pathlib import Path

import pytest

from support.deployed import DEPLOY, TOP, VARIABLES

READMES = sorted(DEPLOY.rglob("README.md"))


@pytest.mark.parametrize("path", READMES, ids=[path.parent.name for path in READMES])
def test_a_readme_starts_with_what_to_run(path: Path) -> None:
    """A README has a title, then commands."""
    assert re.match(r"# [^\n]+\n\n```sh\n\w", path.read_text())


@pytest.mark.parametrize("path", READMES, ids=[path.parent.name for path in READMES])
def test_what_a_readme_names_is_there(path: Path) -> None:
    """Links, files in commands, and variables of the proxy exist."""
    text = path.read_text()
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert (path.parent / link).exists(), link
    for name in re.findall(r"(?<![\w/])deploy/[\w./-]*\w", text):
        assert (TOP / name).exists(), name
    named = set(re.findall(r"\bCROSSMOUNT_PROXY_[A-Z_]*[A-Z]\b", text))
    assert named <= VARIABLES


def test_the_copies_for_ci_are_made(tmp_path: Path) -> None:
    """The commands copy each system's files into a project without these folders, in any shell."""
    block = re.search(r"```sh\n(.*?)```", (DEPLOY / "ci" / "README.md").read_text(), flags=re.DOTALL)
    assert block is not None
    commands = "".join(line for line in block[1].splitlines(keepends=True) if not line.startswith("kubectl"))
    project = tmp_path / "app"
    project.mkdir()
    script = commands.replace("app=../app", f"app={project}")
    subprocess.run(["sh", "-euc", script], cwd=TOP, check=True)
    made = {str(path.relative_to(project)) for path in project.rglob("*") if path.is_file()}
    assert made == {".github/workflows/push.yaml", ".gitlab-ci.yml", "Jenkinsfile", "pod.yaml"}


def test_every_folder_has_one() -> None:
    """Each folder has a README."""
    parts = {"ci", "grafana", "kubernetes", "prometheus", "redis", "systemd"}
    assert {path.parent.name for path in READMES} >= parts


def test_the_first_readme_leads_to_the_others() -> None:
    """deploy/README.md links to every other README."""
    links = set(re.findall(r"\]\(([^)#]+)\)", (DEPLOY / "README.md").read_text()))
    assert links >= {f"{path.parent.name}/README.md" for path in READMES if path.parent != DEPLOY}
