"""Standard output (lines for people, or one document for scripts), notes and logs on standard error."""

import json
import logging
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TextIO

import click

from crossmount._formatting import one_line, wrapped
from crossmount._secrets import mask_forms
from crossmount.cli.settings import Invocation

VERBOSE_LOG = 2
"""The number of `-v` that shows the log and tracebacks."""


class OutputFailedError(click.ClickException):
    """Standard output could not be written completely."""

    def with_note(self, words: str) -> "OutputFailedError":
        """Return the same with a note on what was done nevertheless."""
        return OutputFailedError(f"{self.message}: {words}")


def document(content: Mapping[str, Any]) -> None:
    """Print one JSON document."""
    _print(json.dumps(content, indent=2))
    ctx = click.get_current_context(silent=True)
    if ctx is not None:
        ctx.ensure_object(Invocation).document_printed = True


def lines(words: Iterable[str]) -> None:
    """Print lines. Control characters in them become spaces."""
    for line in words:
        _print(printable(line))


def text(words: str) -> None:
    """Print a text of our own as it is."""
    _print(words.rstrip("\n"))


def note(words: str) -> None:
    """Print one line on standard error, folded if that is a terminal."""
    click.echo(wrapped(one_line(mask_forms(words)), columns_of(sys.stderr)), err=True)


def width() -> int | None:
    """Return the number of columns of standard output, None if it is not a terminal."""
    return columns_of(sys.stdout)


def columns_of(stream: TextIO | None) -> int | None:
    """Return the number of columns of a terminal, None if the stream is something else."""
    return shutil.get_terminal_size().columns if stream is not None and stream.isatty() else None


def is_one_terminal() -> bool:
    """Whether standard output and standard error are the same terminal, so that a reader sees both."""
    if sys.stdout is None or sys.stderr is None or not (sys.stdout.isatty() and sys.stderr.isatty()):
        return False
    return os.path.samestat(os.fstat(sys.stdout.fileno()), os.fstat(sys.stderr.fileno()))


def _print(words: str) -> None:
    """Print to standard output.

    Raises:
        BrokenPipeError: the reader closed the pipe; the command ends without a message.
        OutputFailedError: it could not be written.
    """
    if sys.stdout is None:
        raise OutputFailedError("standard output is closed")
    try:
        click.echo(words)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputFailedError(f"standard output cannot be written: {error.strerror or error}") from error


def printable(line: str) -> str:
    """Return a line with spaces in place of control characters, which would control the terminal."""
    indent = len(line) - len(line.lstrip(" "))
    return line[:indent] + "".join(c if c.isprintable() else " " for c in line[indent:])


class MaskingFormatter(logging.Formatter):
    """Formats a record and its traceback, with everything masked that looks like a secret."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's lines. The access log is not masked: it has many lines, without text of others."""
        words = super().format(record)
        return words if record.name.endswith(".access") else mask_forms(words)


_NOWHERE = logging.NullHandler()


@contextmanager
def library_log(verbose: int) -> Iterator[None]:
    """Print crossmount's log on standard error: with `-v` where credentials come from, with `-vv` all of it.

    Other libraries are left out: they may log secrets.
    """
    # commands report failures of the index themselves; without a handler Python would print its warnings
    logging.getLogger("crossmount.index").addHandler(_NOWHERE)
    if not verbose:
        yield
        return
    handler = logging.StreamHandler(sys.stderr)
    everything = verbose >= VERBOSE_LOG
    handler.setFormatter(MaskingFormatter("%(asctime)s %(name)s: %(message)s" if everything else "%(message)s"))
    log = logging.getLogger("crossmount" if everything else "crossmount.registry.credentials")
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        log.setLevel(level)
        log.removeHandler(handler)


def start_service_log(verbose: int, *, access: bool) -> None:
    """Log a service's warnings, reloads and requests as lines of JSON to standard error until the process ends."""
    from crossmount.proxy.tracing import JsonFormatter  # noqa: PLC0415 only services need the extra

    handler, access_level = logging.StreamHandler(), logging.DEBUG if verbose else logging.INFO
    handler.setFormatter(JsonFormatter(mask_forms))
    for name, level in (
        ("crossmount", logging.INFO if verbose else logging.WARNING),
        ("uvicorn", logging.INFO if verbose else logging.ERROR),
        ("crossmount.proxy.access", access_level if access else logging.WARNING),
        ("crossmount.proxy.reload", logging.INFO),  # whoever changed a file looks for it
        ("crossmount.index", logging.ERROR),  # a service reports failures of the index itself
    ):
        logging.getLogger(name).setLevel(level)
    for name in ("crossmount", "uvicorn"):
        logging.getLogger(name).addHandler(handler)
