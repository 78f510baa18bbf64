"""Completion of commands and options in a shell, and its installation by one command."""

import subprocess
import sys
from pathlib import Path

import pytest

from support.commands import Here, Shell
from support.programs import needs


@pytest.mark.parametrize("name", ["bash", "zsh", "fish"])
def test_a_script_is_printed_for_each_shell(here: Here, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The script is that of the shell that is named, or of SHELL."""
    done = here("completion", name)
    assert (done.status, done.err) == (0, "")
    assert f"_CROSSMOUNT_COMPLETE={name}_complete" in done.out
    monkeypatch.setenv("SHELL", f"/usr/bin/{name}")
    assert here("completion").out == done.out


def test_an_unknown_shell_is_asked_for(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a shell that is known, the error names those that are."""
    monkeypatch.setenv("SHELL", "/bin/tcsh")
    assert here("completion").complaint.startswith("which shell? give one of bash, zsh, fish")


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("bash", ".local/share/bash-completion/completions/crossmount"),
        ("fish", ".config/fish/completions/crossmount.fish"),
        ("zsh", ".zshrc"),
    ],
)
def test_it_is_installed_where_the_shell_finds_it(here: Here, shell: Shell, name: str, path: str) -> None:
    """`--install` writes the file, may be repeated, and keeps what a .zshrc has."""
    file = Path(shell.env["HOME"]) / path
    if name == "zsh":
        file.write_text("alias a=b")
    for _ in range(2):
        done = here("completion", name, "--install")
        assert done.out == f"completion for {name} is in {file}: start a new shell\n"
    content = file.read_text()
    if name == "zsh":
        assert content == 'alias a=b\neval "$(_CROSSMOUNT_COMPLETE=zsh_source crossmount)"\n'
    else:
        assert content == here("completion", name).out


def test_bash_completes_commands_and_options(shell: Shell, tmp_path: Path) -> None:
    """In bash, the installed script completes a command and an option."""
    needs("bash")
    assert shell("completion", "bash", "--install").status == 0
    script = Path(shell.env["HOME"]) / ".local/share/bash-completion/completions/crossmount"
    program = str(Path(sys.executable).with_name("crossmount"))
    asked = (
        f'source "{script}"; COMP_WORDS=(crossmount {{words}}); COMP_CWORD=$((${{{{#COMP_WORDS[@]}}}} - 1)); '
        '_crossmount_completion "$1"; printf "%s\\n" "${{COMPREPLY[@]}}"'
    )
    for words, wanted in (("pu", "push"), ("push --spool", "--spool-limit"), ("index pr", "prune")):
        done = subprocess.run(
            ["bash", "-c", asked.format(words=words), "bash", program],
            capture_output=True,
            text=True,
            check=False,
            env={**shell.env, "PATH": f"{Path(program).parent}:{shell.env['PATH']}"},
            cwd=tmp_path,
        )
        assert wanted in done.stdout.split(), done.stderr
