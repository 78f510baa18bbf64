"""Options, variables, links and other names in the README and the documentation are those of the code."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

import crossmount as library
from crossmount.cli import topics
from crossmount.cli.command import crossmount
from crossmount.cli.entry import COMMANDS
from crossmount.cli.settings import CommonOption

TOP = Path(__file__).parents[2]
PACKAGE = Path(library.__file__).parent
DOCS = TOP / "src" / "crossmount" / "docs"
PAGES = [TOP / "README.md", *sorted(DOCS.glob("*.md"))]
NAMES = [page.stem for page in PAGES]
README_LINES_MAX = 160

OPTION = re.compile(r"(?P<name>--?[a-z][a-z-]*)(?: (?P<metavar>[^`]+))?")
DEFAULT = re.compile(r"default `?(?P<value>[\w.:]+\b)`?")
OF_OTHERS = set(
    re.findall(
        r"--\S+",
        "--against --at-once --cache-to --cap --dest-cert-dir --dest-tls-verify --driver-opt --file --format "
        "--insecure-registry --layers --name --no-deps --pool --port --runs --tag --tls-verify --value",
    )
)
"""Options in the text that belong to other programs."""
TABLED = ("", "push", "copy", "proxy", "scan", "events", "index prune")
"""Commands all of whose options are in tables."""
ELSEWHERE = {"--help", "--version", "--json", "--verbose"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """An option in a table.

    Attributes:
        command: the command's words; empty for an option of all commands.
        metavar: what the table calls its value; empty for none.
        variables: its environment variables.
    """

    page: str
    command: str
    name: str
    metavar: str
    variables: tuple[str, ...]
    meaning: str


def tables(page: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield the header and the rows of each table of a page."""
    for block in re.findall(r"(?m)(?:^\|.*\n)+", page.read_text()):
        lines = block.splitlines()
        yield lines[0], lines[2:]


def rows() -> Iterator[Row]:
    """Yield the options in all tables; a cell may have several."""
    for page in PAGES:
        for header, lines in tables(page):
            if not header.startswith("| option") or "| environment |" not in header:
                continue
            named = re.search(r"`crossmount ([a-z ]+)`", header)
            command = named[1] if named else page.stem if page.stem in COMMANDS and page.stem != "index" else ""
            for line in lines:
                cells = [cell.replace("\\|", "|").strip() for cell in re.split(r"(?<!\\)\|", line.strip("|"))]
                assert len(cells) == 3, line
                names = [OPTION.fullmatch(word) for word in re.findall(r"`([^`]+)`", cells[0])]
                variables = re.findall(r"`([^`]+)`", cells[1])
                found = [name for name in names if name is not None]
                assert len(found) == 1 or len(variables) in {0, 1, len(found)}, line
                for number, option in enumerate(found):
                    yield Row(
                        page=page.stem,
                        command=command,
                        name=option["name"],
                        metavar=option["metavar"] or "",
                        variables=tuple(
                            variables[number : number + 1] if len(variables) == len(found) > 1 else variables
                        ),
                        meaning=cells[2],
                    )


ROWS = list(rows())


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


def variables_of(option: click.Option) -> tuple[str, ...]:
    """Return an option's environment variables."""
    return (option.envvar,) if isinstance(option.envvar, str) else tuple(option.envvar or ())


def all_commands(command: click.Command = crossmount) -> Iterator[click.Command]:
    """Yield a command and all below it."""
    yield command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from all_commands(below)


ALL = list(all_commands())
OPTIONS = {name for command in ALL for name in options_of(command)} | {"-vv"}
VARIABLES = {name for command in ALL for option in options_of(command).values() for name in variables_of(option)}


@pytest.mark.parametrize("row", ROWS, ids=[f"{row.page} {row.command} {row.name}" for row in ROWS])
def test_options_in_tables_are_those_of_the_help(row: Row) -> None:
    """An option in a table has the value, the variable and the default that `--help` says."""
    command, rest = command_of(row.command.split())
    assert rest == []
    option = options_of(command)[row.name.replace("-vv", "-v")]
    assert isinstance(option, CommonOption) == (row.command == "")
    assert variables_of(option) == row.variables
    assert bool(row.metavar) != (option.is_flag or option.count)
    if row.metavar:
        assert option.make_metavar(click.Context(command)) == row.metavar
    default = DEFAULT.search(row.meaning)
    if default is not None and option.show_default:
        assert default["value"] == str(option.default).removesuffix(".0")


@pytest.mark.parametrize("name", TABLED)
def test_options_of_the_help_are_in_a_table(name: str) -> None:
    """Each option of all commands, and of those with most options, is in a table."""
    command, _ = command_of(name.split())
    tabled = {row.name for row in ROWS if row.command == name}
    for option in command.get_params(click.Context(command)):
        if not isinstance(option, click.Option) or {*option.opts} & ELSEWHERE:
            continue
        if name == "" or not isinstance(option, CommonOption):
            assert {*option.opts} & tabled, f"{option.opts} of {name or 'all commands'} is in no table of the docs"


def test_exit_statuses_are_those_of_the_help() -> None:
    """The help of the command lists the exit statuses of the table."""
    ((_, lines),) = ((head, lines) for head, lines in tables(DOCS / "push.md") if head.startswith("| exit status"))
    numbers = {number for row in lines for number in re.findall(r"\d+", row.split("|")[1])}
    (sentence,) = re.findall(r"Exit status: [^.]*\.", crossmount.get_help(click.Context(crossmount)))
    assert set(re.findall(r"\b\d+\b", sentence)) == numbers


def lines_of_commands(page: Path) -> Iterator[str]:
    """Yield each command line of crossmount in the page's blocks for a shell, and in its text."""
    text = page.read_text()
    for block in re.findall(r"```(?:sh|console)\n(.*?)```", text, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            for part in re.split(r" && | \| ", line.removeprefix("$ ")):
                if part.startswith("crossmount "):
                    yield part.removesuffix(" &")
    for line in re.findall(r"`(crossmount [^`]+)`", re.sub(r"(?s)```.*?```", "", text)):
        yield re.sub(r" ….*", "", line)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_commands_are_accepted(page: Path) -> None:
    """A command in a page exists, and its options and arguments can be parsed."""
    for line in lines_of_commands(page):
        words = shlex.split(line.replace("<", "'<'"), comments=True)[1:]
        command, rest = command_of(words)
        options = options_of(command)
        assert not isinstance(command, click.Group) or {*rest} <= {*options, "COMMAND"}, line
        assert [word for word in rest if word.startswith("-") and word != "-" and word not in options] == [], line


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_names_in_the_text_exist(page: Path) -> None:
    """Options, variables, metrics, topics, public names and files that a page names exist."""
    text = page.read_text()
    prose = re.sub(r"(?s)```.*?```", "", text)
    spans = re.findall(r"`([^`]+)`", prose)
    options = {name for span in spans for name in re.findall(r"(?<![\w-])--[a-z][a-z-]+", span)}
    known = OPTIONS | OF_OTHERS if page.stem not in {"benchmarks", "ci"} else options
    assert options <= known, options - known
    source = "".join(path.read_text() for path in sorted(PACKAGE.rglob("*.py")))
    variables = set(re.findall(r"\bCROSSMOUNT_[A-Z_]*[A-Z]\b", text)) - {"CROSSMOUNT_CLIENT_TABLE"}
    assert variables - VARIABLES <= {name for name in variables if f'"{name}"' in source}
    for metric in re.findall(r"\bcrossmount_proxy_\w+", text):
        assert re.sub(r"_(total|bucket|seconds_bucket)$", "", metric).rstrip("_") in source, metric
    for topic in re.findall(r"`crossmount help ([a-z-]+)`", prose):
        assert topic in {*topics.names(), *COMMANDS, "options", "topics"}, topic
    for name in re.findall(r"`crossmount\.([A-Z]\w+)", text):
        assert hasattr(library, name), name
    for path in re.findall(r"`((?:deploy|tests|src|\.ci)/[\w./-]*\w)", text):
        assert (TOP / path).exists(), path


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"(?m)^#+ (.+)$", re.sub(r"(?s)```.*?```", "", page.read_text()))
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", [*PAGES, *sorted((TOP / "deploy").rglob("README.md"))])
def test_links_lead_somewhere(page: Path) -> None:
    """Every link leads to a file of the project, and its anchor to a heading there."""
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"(?s)```.*?```", "", page.read_text())):
        assert "://" not in target, f"{target}: pages are read without a network too"
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.is_relative_to(TOP), target
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), target


def test_the_readme_is_short() -> None:
    """The README is read in some minutes, begins with what crossmount is, and installs first."""
    lines = (TOP / "README.md").read_text().splitlines()
    assert len(lines) <= README_LINES_MAX
    assert next(line for line in lines if line.startswith("## ")) == "## Install"


def test_the_first_line_of_a_page_is_its_title() -> None:
    """Every page begins with one title, and no line is wider than a reader's window."""
    for page in PAGES:
        lines = re.sub(r"(?s)```.*?```", "", page.read_text()).splitlines()
        assert lines[0].startswith("# ")
        assert [line for line in lines if line.startswith("# ")] == lines[:1], page
        assert [line for line in lines if len(line) > 120 and not line.startswith("|")] == [], page


def test_every_symbol_of_an_extra_is_real() -> None:
    """Every extra that a page installs is one of the package."""
    extras = set(re.findall(r"(?m)^(\w+) = \[", (TOP / "pyproject.toml").read_text()))
    for page in PAGES:
        assert {
            extra
            for found in re.findall(r"(?:crossmount|whl)\[([\w,]+)\]", page.read_text())
            for extra in found.split(",")
        } <= extras
