"""`crossmount help`: the documentation in the terminal."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

import crossmount
from crossmount.cli import topics
from crossmount.cli.commands.help import _render
from support.commands import Here, Shell, read_terminal

DOCS = Path(crossmount.__file__).parent / "docs"
_BARE = "import sys; sys.modules['click'] = None; from crossmount.cli.entry import main; main()"


def test_every_page_is_a_topic() -> None:
    """The list of topics has each page of the package's documentation once, and no other."""
    listed = topics.names()
    assert len(listed) == len(set(listed))
    assert {f"{name}.md" for name in listed} | {"README.md"} == {path.name for path in DOCS.iterdir()}


def test_the_topics_are_listed(here: Here) -> None:
    """`crossmount help topics` names every topic in lines of at most 80 columns."""
    done = here("help", "topics")
    assert (done.status, done.err) == (0, "")
    assert [line for line in done.out.splitlines() if len(line) > 80] == []
    assert all(f"\n  {name} " in done.out for name in topics.names())


@pytest.mark.parametrize("name", topics.names())
def test_off_a_terminal_a_topic_is_its_markdown(here: Here, name: str) -> None:
    """Without a terminal, `crossmount help TOPIC --page` prints the page as it is."""
    assert here("help", name, "--page").out.rstrip("\n") == (DOCS / f"{name}.md").read_text().rstrip("\n")


def test_a_topic_is_found_in_capitals_too(here: Here) -> None:
    """The case of a topic's name does not matter."""
    assert here("help", "START").out == here("help", "start").out


@pytest.mark.parametrize("words", [(), ("doctor",), ("push",), ("index", "prune"), ("help",)])
def test_help_is_a_commands_help(here: Here, words: tuple[str, ...]) -> None:
    """`crossmount help COMMAND` is `crossmount COMMAND --help`, and `crossmount help` is `crossmount --help`."""
    done, wanted = here("help", *words), here(*words, "--help")
    assert (done.status, done.out, done.err) == (0, wanted.out, "")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("stard",), "no topic 'stard': did you mean start"),
        (("qqqq",), "no topic 'qqqq': crossmount help topics lists the topics"),
        (("index", "nonsense"), "no topic 'index nonsense'"),
        (("doctor", "more"), "no topic 'doctor more'"),
    ],
)
def test_an_unknown_topic_is_an_error_with_near_matches(here: Here, words: tuple[str, ...], said: str) -> None:
    """A wrong topic ends with status 2 and names similar ones."""
    done = here("help", *words)
    assert done.status == 2
    assert said in done.complaint


@pytest.mark.parametrize("words", [("help", "topics"), ("help", "start"), ("help", "push", "--page")])
def test_the_documentation_needs_no_extra(shell: Shell, words: tuple[str, ...]) -> None:
    """Without the extra `cli` the list and the pages can be read all the same."""
    line = [sys.executable, "-c", _BARE, *words]
    done = subprocess.run(line, capture_output=True, text=True, env=dict(shell.env), check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.rstrip("\n") == shell(*words).out.rstrip("\n")


def test_an_unknown_topic_without_the_extra_names_the_extra(shell: Shell) -> None:
    """Without the extra, what is no topic needs the extra."""
    line = [sys.executable, "-c", _BARE, "help", "push", "--x"]
    done = subprocess.run(line, capture_output=True, text=True, env=dict(shell.env), check=False)
    assert done.returncode == 1
    assert "pip install 'crossmount[cli]'" in done.stderr


def test_on_a_terminal_a_topic_is_formatted_and_paged(shell: Shell) -> None:
    """On a terminal the pager gets the page without Markdown's marks, at most as wide as the terminal."""
    ours, theirs = pty.openpty()
    variables = {"PAGER": "sed s/^/:/", "COLUMNS": "80", "TERM": "xterm"}
    line = [sys.executable, "-m", "crossmount", "help", "start"]
    with subprocess.Popen(line, stdin=theirs, stdout=theirs, stderr=theirs, env={**shell.env, **variables}):
        os.close(theirs)
        drawn = read_terminal(ours)
    os.close(ours)
    assert drawn.startswith(":")
    assert "\x1b[" in drawn
    assert "# Start" not in drawn
    assert ".md)" not in drawn


def test_a_table_on_a_terminal_has_whole_names() -> None:
    """A name that is wider than its column is folded, never cut off."""
    name = "CROSSMOUNT_PROXY_EVENTS_SECRET_FILE"
    drawn = _render(f"| environment |\n|---|\n| `{name}` |\n", 20)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", drawn)
    assert name in "".join(plain.split())
