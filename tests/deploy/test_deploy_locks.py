"""The lock files of the image fit pyproject.toml, name every package, and have its hashes."""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, requires

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from support.deployed import DEPLOY, TOP, image

PROJECT = tomllib.loads((TOP / "pyproject.toml").read_text())
EXTRAS = ("cli", "dashboard", "fast", "proxy")
PYTHON = {"python_version": "3.13", "python_full_version": "3.13.0", "sys_platform": "linux", "extra": ""}


def pinned(name: str) -> dict[str, tuple[Version, list[str]]]:
    """Return the version and the hashes of each package in a lock file."""
    text = re.sub(r"(?m)^#.*\n", "", (DEPLOY / name).read_text())
    found: dict[str, tuple[Version, list[str]]] = {}
    for entry in re.split(r"\n(?=\S)", text.replace("\\\n", " ").strip()):
        match = re.match(r"(?P<name>[\w.-]+)==(?P<version>\S+)", entry)
        assert match is not None, entry
        hashes = re.findall(r"--hash=sha256:([0-9a-f]{64})", entry)
        found[canonicalize_name(match["name"])] = Version(match["version"]), hashes
    return found


def wanted(name: str) -> list[Requirement]:
    """Return what pyproject.toml requires of a lock file."""
    if name == "build.lock":
        return [Requirement(text) for text in PROJECT["build-system"]["requires"]]
    extras = PROJECT["project"]["optional-dependencies"]
    texts = [*PROJECT["project"]["dependencies"], *(text for extra in EXTRAS for text in extras[extra])]
    return [Requirement(text) for text in texts]


@pytest.mark.parametrize("name", ["requirements.lock", "build.lock"])
def test_a_lock_has_what_the_project_requires(name: str) -> None:
    """Each requirement is pinned to a version that it permits; after a change `sh deploy/lock.sh` makes it so."""
    locked = pinned(name)
    for requirement in wanted(name):
        version, _ = locked[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), requirement


@pytest.mark.parametrize("name", ["requirements.lock", "build.lock"])
def test_a_lock_has_what_its_packages_require(name: str) -> None:
    """Each package that a pinned one needs is pinned too, as far as this environment knows their needs."""
    locked = pinned(name)
    for package in locked:
        try:
            needs = requires(package) or []
        except PackageNotFoundError:
            continue
        for requirement in map(Requirement, needs):
            if requirement.marker is None or requirement.marker.evaluate(dict(PYTHON)):
                assert canonicalize_name(requirement.name) in locked, (package, requirement)


@pytest.mark.parametrize("name", ["requirements.lock", "build.lock"])
def test_every_package_of_a_lock_has_hashes(name: str) -> None:
    """No package can be replaced without notice."""
    assert all(hashes for _, hashes in pinned(name).values())


def test_the_image_installs_what_is_locked_and_nothing_else() -> None:
    """Each install has --require-hashes, apart from that of our own wheel, which asks no package index."""
    runs = [given.text for given in image().all("RUN")]
    installs = [line for run in runs for line in run.split("&&") if "pip install" in line]
    locks = {found for line in installs for found in re.findall(r"--require-hashes -r (\S+)", line)}
    assert locks == {"requirements.lock", "build.lock"}
    assert [
        line for line in installs if "--require-hashes" not in line and "--no-index --no-deps" not in line
    ] == []
    assert all("--no-build-isolation" in line for run in runs for line in run.split("&&") if "pip wheel" in line)
    assert {f"deploy/{name}" for name in locks} <= {word for given in image().all("COPY") for word in given.words}
