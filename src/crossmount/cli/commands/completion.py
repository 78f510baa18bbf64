"""`crossmount completion`."""

import os
from pathlib import Path

import click
from click.shell_completion import get_completion_class

from crossmount.cli import output
from crossmount.cli.command import Command

SHELLS = ("bash", "zsh", "fish")
_VARIABLE = "_CROSSMOUNT_COMPLETE"
_ZSH_LINE = f'eval "$({_VARIABLE}=zsh_source crossmount)"'


@click.command(cls=Command)
@click.argument("shell", type=click.Choice(SHELLS), required=False, metavar="[bash|zsh|fish]")
@click.option("--install", is_flag=True, help="Install it for your user instead of printing it.")
@click.pass_context
def completion(ctx: click.Context, shell: str | None, install: bool) -> None:
    """Print the script that completes crossmount's commands and options in a shell: by default that of SHELL.

    With --install it is written where the shell finds it: into the folders of completions of bash and fish, and
    as one line into ~/.zshrc. It takes effect in new shells.

    \b
    Example:
      crossmount completion --install
    """  # noqa: D301 \b is click's mark for a paragraph that keeps its lines
    found = shell or Path(os.environ.get("SHELL", "")).name
    if found not in SHELLS:
        raise click.UsageError(f"which shell? give one of {', '.join(SHELLS)}", ctx)
    if not install:
        output.text(_script(ctx, found))
        return
    home = Path.home()
    if found == "zsh":
        path = Path(os.environ.get("ZDOTDIR") or home) / ".zshrc"
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        if _ZSH_LINE not in before:
            gap = "" if not before or before.endswith("\n") else "\n"
            path.write_text(f"{before}{gap}{_ZSH_LINE}\n", encoding="utf-8")
    else:
        path = _folder(found, home) / ("crossmount" if found == "bash" else "crossmount.fish")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{_script(ctx, found)}\n", encoding="utf-8")
    output.lines([f"completion for {found} is in {path}: start a new shell"])


def _folder(shell: str, home: Path) -> Path:
    """Return the folder in which bash-completion or fish looks for the scripts of a user."""
    if shell == "bash":
        data = os.environ.get("XDG_DATA_HOME") or home / ".local" / "share"
        return Path(data, "bash-completion", "completions")
    return Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config", "fish", "completions")


def _script(ctx: click.Context, shell: str) -> str:
    """Return click's script for a shell."""
    kind = get_completion_class(shell)
    if kind is None:
        raise AssertionError(shell)  # click has all three
    return kind(ctx.find_root().command, {}, "crossmount", _VARIABLE).source().rstrip("\n")
