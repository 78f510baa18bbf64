"""Real programs for tests: a missing one skips a test, and fails it in CI."""

import os
import shutil
import subprocess
from typing import NoReturn

import pytest

from support.waiting import PATIENCE

PACKAGES = {"ctr": "containerd", "kubectl": "kubectl, of Kubernetes' own repository", "systemd-analyze": "systemd"}
"""Debian packages whose name differs from the program's."""


def needs(program: str) -> str:
    """Return where a program is.

    A test whose program is missing is skipped, with a word on how to get it; with CI=true it fails.
    """
    path = shutil.which(program)
    if path is None:
        absent(f"{program} is not on the PATH: apt-get install {PACKAGES.get(program, program)}")
    return path


def absent(word: str) -> NoReturn:
    """Skip a test with the reason `word`; fail it where CI=true."""
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(word)
    pytest.skip(word)


def run(program: str, *arguments: str, **environment: str) -> str:
    """Run a program and return its standard output; a status other than 0 fails with its standard error."""
    done = subprocess.run(
        [needs(program), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, f"{program} {' '.join(arguments)}: {done.stderr}"
    return done.stdout
