"""The `crossmount` command for tests, in this process or another; never touches the user's own index."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from crossmount.cli.command import run
from crossmount.embedded import lifecycle as embedded
from crossmount.testing import ScriptedRegistry
from support.registries import DockerRegistry
from support.waiting import PATIENCE

SECONDS = PATIENCE
_FOREIGN = ("CROSSMOUNT_", "DOCKER_", "GITHUB_", "REGISTRY_", "XDG_")
_SERVICE_LOGGERS = ("crossmount", "crossmount.index", "crossmount.proxy.access", "uvicorn")


@dataclass(frozen=True, slots=True)
class Done:
    """A finished command."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The single JSON document on its standard output."""
        return json.loads(self.out)

    @property
    def complaint(self) -> str:
        """The single line on its standard error."""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("crossmount: ")
        return lines[0].removeprefix("crossmount: ")


@dataclass(frozen=True, slots=True)
class Shell:
    """A user with an empty home, no variables of crossmount, and an own embedded index.

    Attributes:
        folder: contains all files of the user.
    """

    folder: Path
    env: Mapping[str, str] = field(repr=False)
    _started: "list[subprocess.Popen[str]]" = field(default_factory=list, repr=False, compare=False)

    def __call__(self, *arguments: str, **variables: str) -> Done:
        """Run `crossmount ARGUMENTS` in a new process until it ends."""
        with self.start(*arguments, **variables) as process:
            out, err = process.communicate(timeout=SECONDS)
        assert "never retrieved" not in err, err
        return Done(process.returncode, out, err)

    def start(self, *arguments: str, **variables: str) -> "subprocess.Popen[str]":
        """Start `crossmount ARGUMENTS`; the caller waits for its end."""
        process = subprocess.Popen(
            [sys.executable, "-m", "crossmount", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**self.env, **variables},
        )
        self._started.append(process)
        return process

    def end(self) -> None:
        """Kill what a failed test has left running, so that no other test fails for it."""
        for process in self._started:
            with process:
                process.kill()


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    """Return a user of the command; the embedded index stops with the test."""
    home = tmp_path / "home"
    home.mkdir()
    foreign = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
    foreign.pop("CI", None)  # these tests may run in a CI job, which is warned about its index
    env = {**foreign, "HOME": str(home), "CROSSMOUNT_STATE_DIR": str(home / "state")}
    user = Shell(home, env)
    yield user
    user.end()
    embedded.stop(env=env)


@dataclass(frozen=True, slots=True)
class Here:
    """The same user, with the command in this process: faster, and measured by coverage."""

    capture: "pytest.CaptureFixture[str]"

    def __call__(self, *arguments: str) -> Done:
        """Run `crossmount ARGUMENTS`."""
        self.capture.readouterr()
        status = run(arguments)
        out, err = self.capture.readouterr()
        return Done(status, out, err)


@pytest.fixture
def as_found_logging() -> Iterator[None]:
    """Restore the loggers that a service sets up for the rest of its process."""
    loggers = [logging.getLogger(name) for name in _SERVICE_LOGGERS]
    found = [(logger, logger.level, list(logger.handlers)) for logger in loggers]
    yield
    for logger, level, handlers in found:
        logger.setLevel(level)
        logger.handlers[:] = handlers


@pytest.fixture
def here(
    shell: Shell,
    monkeypatch: pytest.MonkeyPatch,
    capsys: "pytest.CaptureFixture[str]",
    as_found_logging: None,
) -> Here:
    """Run the command in this process, as the user of `shell`."""
    del as_found_logging
    for name in [name for name in os.environ if name.startswith(_FOREIGN)]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("CI", raising=False)
    for name in ("HOME", "CROSSMOUNT_STATE_DIR"):
        monkeypatch.setenv(name, shell.env[name])
    return Here(capsys)


def plain(registry: ScriptedRegistry | DockerRegistry, name: str) -> tuple[str, ...]:
    """Return the end of a command line that pushes to a repository without TLS."""
    return f"{registry.address}/{name}", "--plain-http"


def read_terminal(terminal: int) -> str:
    """Read the terminal's output until the other side is closed."""
    drawn = b""
    while True:
        try:
            piece = os.read(terminal, 65536)
        except OSError:  # EIO: closed on the other side
            return drawn.decode()
        if not piece:
            return drawn.decode()
        drawn += piece
