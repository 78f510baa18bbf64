"""deploy/pin.py pins images to digests and actions to commits; whatever is pinned already stays well-formed."""

import importlib.util
import re
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

import crossmount
from crossmount.testing import running_registry
from support.deployed import DEPLOY, TOP
from support.images import make_layout

FILES = [
    path
    for folder in (DEPLOY, TOP / ".github")
    for path in sorted(folder.rglob("*"))
    if path.is_file() and path.suffix in {"", ".yaml", ".yml", ".docker"}
]


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    """Load deploy/pin.py."""
    spec = importlib.util.spec_from_file_location("pin", DEPLOY / "pin.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_image_and_action_is_pinned_and_keeps_its_tag(tool: ModuleType) -> None:
    """Each image and action of all files gets a pin, twice the same, and its tag stays readable."""
    digest, commit = f"sha256:{'a' * 64}", "b" * 40
    pinned = 0
    for path in FILES:
        once = tool.pin(path.read_text(), digest_of=lambda _: digest, commit_of=lambda *_: commit)
        assert tool.pin(once, digest_of=lambda _: digest, commit_of=lambda *_: commit) == once
        assert once.count(f"@{digest}") == len(tool.IMAGE.findall(path.read_text()))
        uses = re.findall(r"uses: (\S+)(.*)", once)
        assert all(name.endswith(f"@{commit}") and re.fullmatch(r" # v[\d.]+", rest) for name, rest in uses), path
        pinned += once.count(digest) + once.count(commit)
    assert pinned >= 20


def test_a_pin_moves_with_its_tag(tool: ModuleType) -> None:
    """A second run takes the digest that the tag means then."""
    text = "image: docker.io/library/alpine:3.22\n"
    first = tool.pin(text, digest_of=lambda _: f"sha256:{'1' * 64}", commit_of=lambda *_: "")
    second = tool.pin(first, digest_of=lambda _: f"sha256:{'2' * 64}", commit_of=lambda *_: "")
    assert second == f"image: docker.io/library/alpine:3.22@sha256:{'2' * 64}\n"


def test_the_registry_says_what_a_tag_means(tool: ModuleType, tmp_path: Path) -> None:
    """The digest is that of the image at its registry; a missing image ends the run."""
    made = make_layout(tmp_path / "image")
    plain = crossmount.ClientOptions(plain_http=True)
    with running_registry() as registry:
        crossmount.push(made.path, f"{registry.address}/library/alpine:3", options=plain)
        found = tool.digest_at_registry(f"{registry.address}/library/alpine:3", options=plain)
        assert found == made.root.digest
        with pytest.raises(SystemExit, match="there is no such image"):
            tool.digest_at_registry(f"{registry.address}/library/alpine:4", options=plain)


def test_git_says_which_commit_a_tag_means(tool: ModuleType, tmp_path: Path) -> None:
    """The commit is the tag's own, also of an annotated tag; a missing tag ends the run."""
    repository = tmp_path / "actions" / "checkout"
    repository.mkdir(parents=True)

    def git(*words: str) -> str:
        line = ["git", "-c", "user.name=a", "-c", "user.email=a@example.com", *words]
        return subprocess.run(line, cwd=repository, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "--quiet")
    git("commit", "--quiet", "--allow-empty", "--message", "one")
    git("tag", "v1")
    git("tag", "--annotate", "--message", "two", "v2")
    for tag in ("v1", "v2"):
        assert tool.commit_at_host("actions/checkout", tag, host=f"file://{tmp_path}") == git("rev-parse", "HEAD")
    with pytest.raises(SystemExit, match="there is no tag v3"):
        tool.commit_at_host("actions/checkout", "v3", host=f"file://{tmp_path}")
