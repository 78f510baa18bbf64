"""What goes to standard output: lines for people, or one document for scripts."""

import json
import os
import shutil
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import click

from crossmount.cli.text import one_line


class OutputFailedError(click.ClickException):
    """Standard output took not all that was to be said."""

    def saying(self, words: str) -> "OutputFailedError":
        """Return this with what was done all the same."""
        return OutputFailedError(f"{self.message}: {words}")


def document(content: Mapping[str, Any]) -> None:
    """Print one JSON document, and nothing beside it."""
    _print(json.dumps(content, indent=2))


def lines(words: Iterable[str]) -> None:
    """Print lines; none of them can move a terminal's cursor."""
    for line in words:
        _print(_harmless(line))


def note(words: str) -> None:
    """Say something beside the answer, on standard error."""
    click.echo(one_line(words), err=True)


def width() -> int | None:
    """Return how many columns the terminal has that standard output is, None if it is none."""
    return shutil.get_terminal_size().columns if sys.stdout is not None and sys.stdout.isatty() else None


def is_one_terminal() -> bool:
    """Tell whether standard output and standard error are the same terminal: one reader sees both."""
    if sys.stdout is None or sys.stderr is None or not (sys.stdout.isatty() and sys.stderr.isatty()):
        return False
    return os.path.samestat(os.fstat(sys.stdout.fileno()), os.fstat(sys.stderr.fileno()))


def _print(words: str) -> None:
    """Print to standard output.

    Raises:
        BrokenPipeError: whoever read it has left, and is to be told nothing.
        OutputFailedError: it was not written.
    """
    if sys.stdout is None:
        raise OutputFailedError("standard output is closed")
    try:
        click.echo(words)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputFailedError(f"standard output cannot be written: {error.strerror or error}") from error


def _harmless(line: str) -> str:
    indent = len(line) - len(line.lstrip(" "))
    return line[:indent] + "".join(c if c.isprintable() else " " for c in line[indent:])
