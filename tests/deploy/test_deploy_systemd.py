"""deploy/systemd: the units are valid, may do little, and their commands are crossmount's."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import httpx
import pytest

from crossmount.cli.command import crossmount
from crossmount.proxy.settings import ServerLimits
from crossmount.testing import running_registry
from support.commands import Shell
from support.deployed import DEPLOY, VARIABLES, names_secret, started
from support.programs import needs, run

FOLDER = DEPLOY / "systemd"
SERVICES = sorted(FOLDER.glob("*.service"))
TIMERS = sorted(FOLDER.glob("*.timer"))
PROGRAM = "/opt/crossmount/bin/crossmount"


def settings(path: Path, name: str) -> list[str]:
    """Return the values of a setting of a unit."""
    return re.findall(rf"(?m)^{name}=(.*)$", path.read_text())


def command(path: Path) -> list[str]:
    """Return the words of a service's command."""
    (line,) = settings(path, "ExecStart")
    program, *words = shlex.split(line)
    assert program == PROGRAM
    return words


@pytest.fixture(scope="module")
def units(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the units, with the command of this environment."""
    needs("systemd-analyze")
    folder = tmp_path_factory.mktemp("units")
    for path in [*SERVICES, *TIMERS]:
        text = path.read_text().replace(PROGRAM, str(Path(sys.executable).with_name("crossmount")))
        (folder / path.name).write_text(text)
    return folder


def test_systemd_understands_every_line(units: Path) -> None:
    """Systemd finds nothing wrong with the units."""
    line = [shutil.which("systemd-analyze") or "", "verify", *map(str, sorted(units.iterdir()))]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("path", SERVICES, ids=[path.stem for path in SERVICES])
def test_a_service_may_do_little(units: Path, path: Path) -> None:
    """Systemd rates what a service could do with at most 1.5 of 10."""
    run("systemd-analyze", "security", "--offline=true", "--threshold=15", str(units / path.name))


def test_every_timer_has_its_service() -> None:
    """A timer starts the service of its name, at a time that systemd understands."""
    needs("systemd-analyze")
    assert {path.stem for path in TIMERS} == {
        path.stem for path in SERVICES if settings(path, "Type") == ["oneshot"]
    }
    for path in TIMERS:
        (when,) = settings(path, "OnCalendar")
        run("systemd-analyze", "calendar", when)


@pytest.mark.parametrize("path", SERVICES, ids=[path.stem for path in SERVICES])
def test_the_command_and_the_variables_are_crossmount_s(path: Path) -> None:
    """Each command parses, and each variable that a unit sets is read by that command."""
    words = [word.replace("${REGISTRY}", "registry.example.com") for word in command(path)]
    found: click.Command = crossmount
    while isinstance(found, click.Group) and words:
        below = found.get_command(click.Context(found), words.pop(0))
        assert below is not None
        found = below
    variables = {str(option.envvar) for option in found.params if option.envvar}
    for name in re.findall(r"\bCROSSMOUNT_[A-Z_]+", " ".join(settings(path, "Environment"))):
        assert name in variables, name
    options = {word for option in found.params for word in option.opts}
    assert {word for word in words if word.startswith("--")} <= options


def test_secrets_are_in_files_of_root() -> None:
    """No unit has a secret; they come from files that systemd reads, in one folder."""
    for path in SERVICES:
        assert not names_secret(path.read_text())
        named = settings(path, "EnvironmentFile") + [
            word.split(":")[1] for word in settings(path, "LoadCredential")
        ]
        assert named
        assert all(name.startswith("/etc/crossmount/") for name in named)
    assert "umask 077" in (FOLDER / "README.md").read_text()


def test_a_stop_leaves_uploads_their_time() -> None:
    """The time-out of a stop is longer than the proxy's grace can take."""
    (seconds,) = settings(FOLDER / "crossmount-proxy.service", "TimeoutStopSec")
    assert float(seconds) >= 2 * ServerLimits().grace + 5


def test_a_reload_reaches_the_proxy(shell: Shell) -> None:
    """`systemctl reload` lets a running proxy read its files again."""
    (line,) = settings(FOLDER / "crossmount-proxy.service", "ExecReload")
    with running_registry() as registry:
        options = ("--upstream", registry.url, "--listen", "127.0.0.1:0", "--index", "redis://127.0.0.1:1")
        with shell.start("proxy", *options) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.readline()
            run(*shlex.split(line.replace("$MAINPID", str(process.pid))))
            assert any("reloaded" in text for text in iter(process.stderr.readline, ""))
            process.terminate()


def test_the_proxy_starts_with_the_variables_of_the_readme(tmp_path: Path) -> None:
    """The README's file is enough for the proxy to become ready."""
    text = (FOLDER / "README.md").read_text()
    environment = dict(re.findall(r"(CROSSMOUNT_[A-Z_]+)=(\S+?)'?(?= |\n)", text.split("systemctl")[0]))
    environment |= dict(
        word.split("=", 1)
        for word in " ".join(settings(FOLDER / "crossmount-proxy.service", "Environment")).split()
        if word.startswith("CROSSMOUNT_")
    )
    assert environment.keys() <= VARIABLES
    with (
        running_registry() as registry,
        started(tmp_path, upstream=registry.url, arguments=["proxy"], environment=environment) as url,
    ):
        assert httpx.get(f"{url}/_crossmount/readyz").status_code == 200
