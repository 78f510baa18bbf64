"""The project's own files: what the wheel and the sdist contain, and what runs when."""

import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

import crossmount
from support.deployed import TOP, document, schema_errors

PACKAGE = Path(crossmount.__file__).parent
WORKFLOWS = sorted((TOP / ".github" / "workflows").glob("*.yml"))
DATA = ("LICENSE", "README.md", "py.typed")


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, dict[str, bytes]]:
    """Build the sdist, and the wheel from it, and return the files of both by path."""
    folder = tmp_path_factory.mktemp("dist")
    line = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(TOP)]
    subprocess.run(line, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    (sdist,) = folder.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as opened:
        in_wheel = {name: opened.read(name) for name in opened.namelist()}
    in_sdist = {}
    with tarfile.open(sdist) as archive:
        for member in archive:
            file = archive.extractfile(member)
            if file is not None:
                in_sdist[member.name.partition("/")[2]] = file.read()
    return {"wheel": in_wheel, "sdist": in_sdist}


@pytest.mark.parametrize(("kind", "root"), [("wheel", "crossmount"), ("sdist", "src/crossmount")])
def test_an_archive_contains_every_data_file(
    archives: Mapping[str, dict[str, bytes]], kind: str, root: str
) -> None:
    """Both contain the license, the documentation, py.typed, all Lua scripts and the page, unchanged."""
    scripts = {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.lua")}
    pages = {path.relative_to(PACKAGE).as_posix() for path in (PACKAGE / "docs").iterdir()}
    shown = {
        path.relative_to(PACKAGE).as_posix()
        for folder in ("templates", "static")
        for path in (PACKAGE / "dashboard" / folder).iterdir()
    }
    assert scripts
    assert pages
    assert shown
    for name in {*scripts, *pages, *shown, *DATA}:
        assert archives[kind][f"{root}/{name}"] == (PACKAGE / name).read_bytes(), name


def test_the_license_is_part_of_the_metadata(archives: Mapping[str, dict[str, bytes]]) -> None:
    """The wheel names its license and the file with the text."""
    version = crossmount.__version__
    metadata = archives["wheel"][f"crossmount-{version}.dist-info/METADATA"].decode()
    assert "\nLicense-Expression: Apache-2.0\n" in metadata
    (path,) = re.findall(r"^License-File: (.+)$", metadata, flags=re.MULTILINE)
    text = archives["wheel"][f"crossmount-{version}.dist-info/licenses/{path}"].decode()
    assert text.split()[:4] == ["Apache", "License", "Version", "2.0,"]


def test_the_sdist_contains_nothing_else(archives: Mapping[str, dict[str, bytes]]) -> None:
    """The sdist contains the package and what is needed to build it."""
    others = {name for name in archives["sdist"] if not name.startswith("src/crossmount/")}
    assert others == {".gitignore", "PKG-INFO", "README.md", "pyproject.toml"}


@pytest.mark.parametrize("path", WORKFLOWS, ids=[path.stem for path in WORKFLOWS])
def test_a_workflow_is_valid(path: Path) -> None:
    """Each workflow is valid by the schema of GitHub's workflows."""
    assert not schema_errors("github-workflows", path)


RELEASE_RIGHTS = {
    "files": {"contents": "read", "id-token": "write", "attestations": "write"},
    "pypi": {"id-token": "write"},
    "image": {"contents": "read", "packages": "write", "id-token": "write", "attestations": "write"},
}
"""What the jobs of a release may do beyond reading: sign, and publish."""


@pytest.mark.parametrize("path", WORKFLOWS, ids=[path.stem for path in WORKFLOWS])
def test_a_workflow_may_only_read(path: Path) -> None:
    """A workflow may read the repository's content; a release's jobs have the rights that they need, no more."""
    workflow = document(path)
    assert workflow["permissions"] == {"contents": "read"}
    rights = {name: job["permissions"] for name, job in workflow["jobs"].items() if "permissions" in job}
    assert rights == (RELEASE_RIGHTS if path.stem == "release" else {})


@pytest.mark.parametrize("path", WORKFLOWS, ids=[path.stem for path in WORKFLOWS])
def test_a_workflow_pins_its_actions(path: Path) -> None:
    """Every action is pinned to a version at least; `deploy/pin.py` adds its commit, and keeps the version."""
    used = re.findall(r"uses: (.+)", path.read_text())
    assert used
    version = re.compile(r"[\w.-]+/[\w.-]+@(v\d+(\.\d+)*|[0-9a-f]{40} # v\d+(\.\d+)*)")
    assert all(version.fullmatch(name) for name in used), used


def test_what_is_pinned_is_kept_up_to_date() -> None:
    """Newer versions of actions and images are proposed each week, by a file that is valid."""
    path = TOP / ".github" / "dependabot.yml"
    assert not schema_errors("dependabot", path)
    kinds = {update["package-ecosystem"] for update in document(path)["updates"]}
    assert kinds >= {"github-actions", "docker", "docker-compose"}


def test_a_workflow_runs_a_script_of_the_project() -> None:
    """Each workflow runs its script in .ci; all of them can be executed and are valid shell."""
    runs = {
        path.stem: [
            step["run"] for job in document(path)["jobs"].values() for step in job["steps"] if "run" in step
        ]
        for path in WORKFLOWS
        if path.stem != "release"
    }
    assert {name: [run.split()[-1] for run in lines] for name, lines in runs.items()} == {
        "ci": [".ci/run"],
        "nightly": [".ci/nightly"],
        "weekly": [".ci/weekly"],
    }
    for script in (TOP / ".ci").iterdir():
        assert script.stat().st_mode & 0o111, script
        subprocess.run(["bash", "-n", str(script)], check=True)


def test_the_weekly_run_goes_past_upper_bounds_of_packages_that_we_require() -> None:
    """Every package that .ci/weekly upgrades is one that pyproject.toml bounds."""
    (upgraded,) = re.findall(r"--upgrade (?!-)(.+)", (TOP / ".ci" / "weekly").read_text())
    project = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    required = [*project["dependencies"], *project["optional-dependencies"]["proxy"]]
    bounded = {re.split(r"[^\w-]", text)[0] for text in required if "<" in text}
    assert set(upgraded.split()) == {"redis", "httpx", "uvicorn"}
    assert set(upgraded.split()) <= bounded
