"""`crossmount help`, the documentation in the terminal, and `crossmount completion`."""

import os
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import click
from click.shell_completion import get_completion_class

from crossmount.cli import output, topics
from crossmount.cli.command import WIDTH, Command, common_options_text
from crossmount.cli.entry import COMMANDS

_TOPIC_LINK = re.compile(r"\[([^\]]+)\]\(([\w-]+)\.md(?:#[\w-]*)?\)")
_ANCHOR_LINK = re.compile(r"\[([^\]]+)\]\(#[\w-]*\)")
_PROJECT_LINK = re.compile(r"\[([^\]]+)\]\((?:\.\./)+([\w./-]+)(?:#[\w-]*)?\)")


@click.command(name="help", cls=Command)
@click.argument("words", metavar="[COMMAND | TOPIC]", nargs=-1)
@click.option("--page", is_flag=True, help="Show the page of the documentation about a command.")
@click.pass_context
def help_command(ctx: click.Context, words: Sequence[str], page: bool) -> None:
    """Print the help of a command, or read a page of the documentation.

    `help topics` lists the pages, `help TOPIC` shows one. A page that has the name of a command is shown by
    `help COMMAND --page`. On a terminal a page is formatted and shown in your pager; otherwise its Markdown is
    printed.
    """
    known = topics.names()
    lower = [word.lower() for word in words]
    if lower == ["topics"]:
        output.text(topics.overview())
    elif lower == ["options"]:
        output.text(common_options_text(ctx))
    elif len(lower) == 1 and lower[0] in known and (page or lower[0] not in COMMANDS):
        _show(lower[0])
    elif not page and (found := _help_of(ctx, words)) is not None:
        output.text(found)
    else:
        wrong = " ".join(words)
        raise click.UsageError(f"no topic {wrong!r}: {topics.near(wrong, {*known, *COMMANDS})}", ctx)


def _help_of(ctx: click.Context, words: Sequence[str]) -> str | None:
    """Return the help of the command that the words name, None if there is none; no word names all commands."""
    current = ctx.find_root()
    for word in words:
        command = current.command
        found = command.get_command(current, word) if isinstance(command, click.Group) else None
        if found is None:
            return None
        current = click.Context(found, info_name=word, parent=current)
    return current.get_help()


def _show(name: str) -> None:
    """Print a topic."""
    markdown = topics.read(name)
    if sys.stdout is None or not (sys.stdout.isatty() and sys.stdin is not None and sys.stdin.isatty()):
        output.text(markdown)
        return
    if name in COMMANDS:
        markdown += f"\n---\n\nAll options: `crossmount {name} --help`\n"
    click.echo_via_pager(_render(markdown, min(shutil.get_terminal_size().columns, WIDTH)), color=True)


def _render(markdown: str, width: int) -> str:
    """Return Markdown as text for a terminal; links to topics become the words that open them."""
    from io import StringIO  # noqa: PLC0415 rich takes a fifth of a second to load, and only a terminal needs it

    from rich.console import Console, ConsoleOptions, RenderResult  # noqa: PLC0415
    from rich.markdown import Markdown, TableElement  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    class WholeNames(TableElement):
        """A table that folds a long name, where rich would cut it off."""

        def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
            for part in super().__rich_console__(console, options):
                for column in part.columns if isinstance(part, Table) else ():
                    column.overflow = "fold"
                yield part

    class Page(Markdown):
        elements = {**Markdown.elements, "table_open": WholeNames}  # noqa: RUF012 as rich declares it

    markdown = _TOPIC_LINK.sub(_as_command, markdown)
    markdown = _PROJECT_LINK.sub(r"\1 (`\2` in the repository)", _ANCHOR_LINK.sub(r"\1", markdown))
    console = Console(file=StringIO(), width=width, force_terminal=True, color_system="standard")
    with console.capture() as captured:
        console.print(Page(markdown, hyperlinks=False))
    return captured.get()


def _as_command(match: re.Match[str]) -> str:
    words, name = match[1], match[2]
    command = topics.command_for(name)
    return f"`{command}`" if words.strip("`") == name else f"{words} (`{command}`)"


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
