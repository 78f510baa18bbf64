"""The READMEs of deploy/: a reader can run what they say."""

import re
from pathlib import Path

import pytest

from support.deployed import DEPLOY, TOP, VARIABLES

READMES = sorted(DEPLOY.rglob("README.md"))


@pytest.mark.parametrize("path", READMES, ids=[path.parent.name for path in READMES])
def test_a_readme_starts_with_what_to_run(path: Path) -> None:
    """A title, and then commands."""
    assert re.match(r"# [^\n]+\n\n```sh\n\w", path.read_text())


@pytest.mark.parametrize("path", READMES, ids=[path.parent.name for path in READMES])
def test_what_a_readme_names_is_there(path: Path) -> None:
    """Links, the files of its commands, and the variables of the proxy."""
    text = path.read_text()
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert (path.parent / link).exists(), link
    for name in re.findall(r"(?<![\w/])deploy/[\w./-]*\w", text):
        assert (TOP / name).exists(), name
    named = set(re.findall(r"\bCROSSMOUNT_PROXY_[A-Z_]*[A-Z]\b", text))
    assert named <= VARIABLES


def test_every_folder_has_one() -> None:
    """Each part says how it is used."""
    parts = {"ci", "grafana", "kubernetes", "prometheus"}
    assert {path.parent.name for path in READMES} >= parts
