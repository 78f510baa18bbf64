"""Pins images of deploy/ to their digests, and actions of workflows to their commits: python deploy/pin.py.

Run it in a checkout with crossmount installed, where registries and GitHub can be reached. Tags stay beside the
pins: `image:1.2@sha256:…`, `uses: owner/action@<commit> # v1`. Run again, it takes what the tags mean now.
"""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import crossmount

TOP = Path(__file__).parents[1]
FOLDERS = ("deploy", ".github")
SUFFIXES = {"", ".yaml", ".yml", ".docker"}
"""Of the files with images: Dockerfile and Jenkinsfile have none."""

IMAGE = re.compile(r"\b(?P<tagged>(?:docker\.io|quay\.io|ghcr\.io)/[\w./-]+:[\w.-]+)(?:@sha256:[0-9a-f]{64})?")
ACTION = re.compile(r"uses: (?P<name>[\w.-]+/[\w.-]+)@(?:[0-9a-f]{40} # )?(?P<tag>v[\d.]+)")


def pin(text: str, *, digest_of: Callable[[str], str], commit_of: Callable[[str, str], str]) -> str:
    """Return a file's text with each image and each action pinned.

    Args:
        text: the file's text.
        digest_of: returns the digest that an image's tag means.
        commit_of: returns the commit that a tag of an action's repository means.
    """
    text = IMAGE.sub(lambda found: f"{found['tagged']}@{digest_of(found['tagged'])}", text)
    return ACTION.sub(
        lambda found: f"uses: {found['name']}@{commit_of(found['name'], found['tag'])} # {found['tag']}", text
    )


def digest_at_registry(image: str, *, options: crossmount.ClientOptions | None = None) -> str:
    """Ask an image's registry for the digest of its tag."""
    reference = crossmount.Reference.parse(image)
    with crossmount.RegistryClient(reference, options=options or crossmount.ClientOptions()) as client:
        found = client.head_manifest(reference)
    if found is None:
        sys.exit(f"{image}: there is no such image")
    return str(found.digest)


def commit_at_host(name: str, tag: str, *, host: str = "https://github.com") -> str:
    """Ask a git host for the commit of a tag."""
    line = ["git", "ls-remote", f"{host}/{name}", f"refs/tags/{tag}", f"refs/tags/{tag}^{{}}"]
    lines = subprocess.run(line, check=True, capture_output=True, text=True).stdout.split()  # noqa: S603 no shell
    if not lines:
        sys.exit(f"{name}: there is no tag {tag}")
    return lines[-2]  # an annotated tag has a second line, which names the commit


def main() -> None:
    """Pin everything in the checkout."""
    for folder in FOLDERS:
        for path in sorted((TOP / folder).rglob("*")):
            if path.is_file() and path.suffix in SUFFIXES:
                before = path.read_text()
                after = pin(before, digest_of=digest_at_registry, commit_of=commit_at_host)
                if after != before:
                    path.write_text(after)
                    sys.stdout.write(f"pinned {path.relative_to(TOP)}\n")


if __name__ == "__main__":
    main()
