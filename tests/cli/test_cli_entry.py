import gc
import subprocess
import sys
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path

import pytest

from crossmount.cli import command, entry
from support.commands import Here, Shell


def test_the_version_needs_none_of_the_heavy_libraries(shell: Shell) -> None:
    """`crossmount --version` imports neither redis, httpx, rich nor asyncio."""
    code = (
        "import sys\nfrom crossmount.cli.command import run\nstatus = run(['--version'])\n"
        "sys.exit(status or ' '.join({'redis', 'httpx', 'rich', 'asyncio'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=dict(shell.env), check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, f"crossmount {version('crossmount')}\n", "")


def test_the_module_and_the_script_are_the_command(shell: Shell) -> None:
    """`python -m crossmount` and the script `crossmount` do the same."""
    script = Path(sys.executable).with_name("crossmount")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, env=dict(shell.env), check=False)
    assert shell("--version").out == done.stdout == f"crossmount {version('crossmount')}\n"


@pytest.mark.parametrize("absent", ["click", "rich"])
def test_a_missing_extra_is_named(shell: Shell, absent: str) -> None:
    """Without the extra, one line says what to install."""
    code = f"import sys; sys.modules[{absent!r}] = None; from crossmount.cli.entry import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=dict(shell.env), check=False
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == (f"crossmount: {absent} not installed here: pip install 'crossmount[cli]'\n")


def test_main_exits_with_the_status(monkeypatch: pytest.MonkeyPatch, here: Here) -> None:
    """The process exits with the status of the run."""
    del here
    monkeypatch.setattr(sys, "argv", ["crossmount", "locate", "sha256:nonsense"])
    with pytest.raises(SystemExit) as ended:
        entry.main()
    assert ended.value.code == 2


def test_garbage_is_collected_while_a_command_works(
    monkeypatch: pytest.MonkeyPatch, here: Here, capsys: "pytest.CaptureFixture[str]"
) -> None:
    """The garbage collector is off only while the command is loaded, and at the end of the process."""
    del here
    working: list[bool] = []

    def look(_: int) -> nullcontext[None]:
        working.append(gc.isenabled())
        return nullcontext()

    monkeypatch.setattr(sys, "argv", ["crossmount", "must-mount", "sha256:" + "0" * 64])
    monkeypatch.setattr(command, "library_log", look)
    with pytest.raises(SystemExit):
        entry.main()
    assert working == [True]
    assert gc.isenabled()
    capsys.readouterr()


def test_main_names_a_missing_extra(monkeypatch: pytest.MonkeyPatch, capsys: "pytest.CaptureFixture[str]") -> None:
    """If both libraries of the extra are missing, both are named."""
    monkeypatch.setattr(entry, "find_spec", lambda _: None)
    with pytest.raises(SystemExit) as ended:
        entry.main()
    assert ended.value.code == 1
    assert "click and rich not installed" in capsys.readouterr().err


def test_a_ctrl_c_while_loading_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: "pytest.CaptureFixture[str]"
) -> None:
    """Ctrl-C while the command is loaded prints one line and no traceback."""

    def interrupted(arguments: list[str]) -> int:
        raise KeyboardInterrupt(*arguments)

    monkeypatch.setattr("crossmount.cli.command.run", interrupted)
    with pytest.raises(SystemExit) as ended:
        entry.main()
    assert ended.value.code == 130
    assert capsys.readouterr().err == "crossmount: interrupted\n"


def test_completion_for_shells_is_there(shell: Shell) -> None:
    """Click's shell completion works."""
    done = shell(_CROSSMOUNT_COMPLETE="bash_source")
    assert done.status == 0
    assert "complete" in done.out
