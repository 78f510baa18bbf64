"""README.md's tables of options and exit statuses, and the commands in it, match the command line."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

from crossmount.cli.run import crossmount
from crossmount.cli.settings import CommonOption

README = (Path(__file__).parents[2] / "README.md").read_text()

COMMON, OF_COPY = "| option, before or after the command |", "| option of copy |"
OPTION = re.compile(r"(?P<command>[a-z ]*)(?P<name>--?[a-z-]+)(?: (?P<metavar>[A-Z=]+))?")
DEFAULT = re.compile(r"default (?:`(?P<quoted>[^`]+)`|(?P<plain>\d+(?: GiB)?))")
ELSEWHERE = {"--help", "--json"}
"""Options that the tables leave to the text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """An option in a table of the README.

    Attributes:
        command: the command's words; empty for an option of all commands.
        name: of the option.
        metavar: what the table calls its value; empty for none.
        variable: its environment variable; empty for none.
        meaning: the text about it.
    """

    command: str
    name: str
    metavar: str
    variable: str
    meaning: str


def rows_of(header: str, *, command: str = "") -> Iterator[Row]:
    """Yield the options in the table with this header; a cell may have several."""
    lines = README[README.index(header) :].split("\n\n")[0].splitlines()[2:]
    for line in lines:
        options, variables, meaning = (cell.strip() for cell in line.strip("|").split("|"))
        names = re.findall(r"`([^`]+)`", options)
        envvars = re.findall(r"`([^`]+)`", variables) or [""]
        assert len(envvars) in {1, len(names)}, line
        found = [match for name in names if (match := OPTION.fullmatch(name))]
        for number, match in enumerate(found):
            yield Row(
                command=(match["command"] or command).strip(),
                name=match["name"],
                metavar=match["metavar"] or found[-1]["metavar"] or "",
                variable=envvars[number if len(envvars) > 1 else 0],
                meaning=meaning,
            )


ROWS = [*rows_of(COMMON), *rows_of(OF_COPY, command="copy")]


def command_of(words: list[str]) -> tuple[click.Command, list[str]]:
    """Return the command that the first words name, and the words after it."""
    command: click.Command = crossmount
    for number, word in enumerate(words):
        found = command.get_command(click.Context(command), word) if isinstance(command, click.Group) else None
        if found is None:
            return command, words[number:]
        command = found
    return command, []


def options_of(command: click.Command) -> dict[str, click.Option]:
    """Return a command's options by each of their names."""
    params = command.get_params(click.Context(command))
    return {
        name: param
        for param in params
        if isinstance(param, click.Option)
        for name in (*param.opts, *param.secondary_opts)
    }


@pytest.mark.parametrize("row", ROWS, ids=[f"{row.command} {row.name}".strip() for row in ROWS])
def test_options_in_the_readme_are_those_of_the_help(row: Row) -> None:
    """An option in the README has the value, the variable and the default that `--help` says."""
    command, rest = command_of(row.command.split())
    assert rest == []
    options = options_of(command)
    assert row.name in options or row.name == "-vv"
    option = options[row.name.replace("-vv", "-v")]
    assert isinstance(option, CommonOption) == (row.command == "")
    assert (option.envvar or "") == row.variable
    assert bool(row.metavar) != (option.is_flag or option.count)
    if row.metavar:
        assert option.make_metavar(click.Context(command)) == row.metavar
    default = DEFAULT.search(row.meaning)
    if default is not None and option.show_default:
        said = (default["quoted"] or default["plain"]).replace(" ", "")
        assert said == str(option.default).removesuffix(".0")


@pytest.mark.parametrize("name", ["", "push", "copy"])
def test_options_of_the_help_are_in_the_readme(name: str) -> None:
    """Each option of all commands, of push and of copy is in a table of the README."""
    command, _ = command_of(name.split())
    tables = "\n".join(README[README.index(header) :].split("\n\n")[0] for header in (COMMON, OF_COPY))
    for option in command.get_params(click.Context(command)):
        if isinstance(option, click.Option) and not {*option.opts} & {*ELSEWHERE, "--version"}:
            assert any(re.search(rf"`(?:[a-z ]* )?{re.escape(opt)}\b", tables) for opt in option.opts), option


def test_exit_statuses_in_the_readme_are_those_of_the_help() -> None:
    """The help of the command lists the exit statuses of the README's table."""
    table = README[README.index("| exit status |") :].split("\n\n")[0]
    numbers = {number for row in table.splitlines()[2:] for number in re.findall(r"\d+", row.split("|")[1])}
    (sentence,) = re.findall(r"Exit status: [^.]*\.", crossmount.get_help(click.Context(crossmount)))
    assert set(re.findall(r"\b\d+\b", sentence)) == numbers


def commands() -> Iterator[str]:
    """Yield each command line of crossmount in the README's blocks for a shell."""
    for block in re.findall(r"```(?:sh|console)\n(.*?)```", README, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if (words := line.removeprefix("$ ")).startswith("crossmount "):
                yield words


@pytest.mark.parametrize("line", sorted(set(commands())))
def test_commands_in_the_readme_are_accepted(line: str) -> None:
    """A command in the README exists, and its options and arguments can be parsed."""
    words = shlex.split(line.replace("sha256:…", f"sha256:{'0' * 64}"), comments=True)[1:]
    command, rest = command_of(words)
    options = options_of(command)
    assert not isinstance(command, click.Group) or rest == []
    assert [word for word in rest if word.startswith("--") and word not in options] == []
