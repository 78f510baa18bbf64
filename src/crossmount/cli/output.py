"""What goes to standard output: lines for people, or one document for scripts."""

import json
import shutil
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import click

from crossmount.cli.text import one_line


def document(content: Mapping[str, Any]) -> None:
    """Print one JSON document, and nothing beside it."""
    click.echo(json.dumps(content, indent=2))


def lines(words: Iterable[str]) -> None:
    """Print lines; none of them can move a terminal's cursor."""
    for line in words:
        click.echo(_harmless(line))


def note(words: str) -> None:
    """Say something beside the answer, on standard error."""
    click.echo(one_line(words), err=True)


def width() -> int | None:
    """Return how many columns the terminal has that standard output is, None if it is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _harmless(line: str) -> str:
    indent = len(line) - len(line.lstrip(" "))
    return line[:indent] + "".join(c if c.isprintable() else " " for c in line[indent:])
