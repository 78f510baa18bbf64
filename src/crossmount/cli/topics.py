"""The topics of the documentation in the package. Standard library only, so they are read without extras."""

import difflib
import re
from collections.abc import Iterable
from importlib.resources import files
from importlib.resources.abc import Traversable

from crossmount._dataclass import dataclass
from crossmount.cli.entry import COMMANDS

_ROW = re.compile(r"\| \[(?P<name>[\w-]+)\]\((?P=name)\.md\) \| (?P<summary>.+) \|")
_TITLE = re.compile(r"## (?P<title>.+)")


@dataclass(frozen=True, slots=True)
class Section:
    """A group of topics.

    Attributes:
        title: its heading.
        topics: the summary of each topic, by its name.
    """

    title: str
    topics: dict[str, str]


def sections() -> list[Section]:
    """Return the topics in their order: the tables of `docs/README.md`."""
    found: list[Section] = []
    for line in read("README").splitlines():
        if title := _TITLE.fullmatch(line):
            found.append(Section(title["title"], {}))
        elif row := _ROW.fullmatch(line):
            found[-1].topics[row["name"]] = row["summary"]
    return [section for section in found if section.topics]


def names() -> list[str]:
    """Return the names of all topics."""
    return [name for section in sections() for name in section.topics]


def command_for(name: str) -> str:
    """Return the words after `crossmount` that show a topic: a command of the same name has its own help."""
    return f"help {name} --page" if name in COMMANDS else f"help {name}"


def read(name: str) -> str:
    """Return the Markdown of a topic, or of the list of topics for `README`."""
    return (_folder() / f"{name}.md").read_text(encoding="utf-8")


def overview(more: Iterable[tuple[str, str]] = (("options", "the options of all commands"),)) -> str:
    """Return the list of topics as plain text.

    Args:
        more: further topics and their summaries, which are not files.
    """
    parts = [*sections()]
    if extra := dict(more):
        parts.append(Section("The command line", extra))
    shown = {name: command_for(name).removeprefix("help ") for part in parts for name in part.topics}
    width = max(map(len, shown.values()))
    lines = ["Usage: crossmount help TOPIC", ""]
    for part in parts:
        lines += [f"{part.title}:"]
        lines += [f"  {shown[name]:<{width}}  {words}" for name, words in part.topics.items()]
        lines += [""]
    return "\n".join([*lines, "A command's options: crossmount COMMAND --help", ""])


def near(word: str, known: Iterable[str]) -> str:
    """Return advice about a topic that does not exist: similar names, or where the names are listed."""
    close = difflib.get_close_matches(word, list(known), n=3, cutoff=0.55)
    return f"did you mean {' or '.join(close)}?" if close else "crossmount help topics lists the topics"


def _folder() -> Traversable:
    return files("crossmount") / "docs"
