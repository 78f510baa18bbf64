"""`crossmount index export` and `crossmount index import`."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import click

from crossmount import _formatting as text
from crossmount import events
from crossmount.cli import output
from crossmount.cli.access import DEFAULT_NAMESPACE, index_url, opened_index
from crossmount.cli.command import Command, json_option
from crossmount.cli.event_loop import run_async
from crossmount.cli.failures import Interrupted
from crossmount.cli.settings import OFF, Settings, settings_of
from crossmount.errors import CrossmountError, IndexFailedError
from crossmount.index.blocking import open_index
from crossmount.maintenance import MoveReport, export_index
from crossmount.maintenance.export_import import import_now

_STANDARD = Path("-")
_FILE = click.Path(dir_okay=False, path_type=Path, allow_dash=True)


@click.command("export", cls=Command)
@click.argument("file", type=_FILE, default=_STANDARD, metavar="[FILE]")
@click.pass_context
def export(ctx: click.Context, file: Path) -> None:
    """Write all layers and sources of the index to FILE, as JSON lines; '-', the default, is standard output.

    The first line is a header. Then each layer has a line: its size, whether it must be mounted, and for each
    registry the repositories that have it and the seconds until they expire.
    """
    settings = settings_of(ctx)
    try:
        with _opened_for_writing(file) as opened:
            report = run_async(_export(settings, opened))
    except OSError as error:
        if error.filename is None and file != _STANDARD:
            error.filename = str(file)  # a write does not say to which file
        raise
    output.note(f"exported {_counted(report)}")


@click.command("import", cls=Command)
@click.argument("file", type=_FILE, default=_STANDARD, metavar="[FILE]")
@json_option
@click.pass_context
def import_(ctx: click.Context, file: Path, as_json: bool) -> None:
    """Add the layers and sources in FILE, from `crossmount index export`; '-', the default, is standard input.

    They are added to the namespace that --namespace names. Existing sources keep their expiry if it is later, and
    existing must-mount flags stay. An invalid line stops the import; the lines before it stay imported.
    """
    settings = settings_of(ctx)
    moved = events.LayersMoved(layers=0, sources=0)
    run_async(_claim(settings))

    def observe(event: events.Event) -> None:
        nonlocal moved
        if isinstance(event, events.LayersMoved):
            moved = event

    try:
        with _opened_for_reading(file) as opened:
            report = _import(settings, opened, observe, name="standard input" if file == _STANDARD else str(file))
    except KeyboardInterrupt:
        raise Interrupted().with_note(_so_far(moved)) from None
    except IndexFailedError:
        output.note(_so_far(moved))
        raise
    if as_json:
        output.document({"layers": report.layers, "sources": report.sources, "must_mount": report.flagged})
    else:
        output.lines([f"imported {_counted(report)}"])


async def _export(settings: Settings, file: IO[bytes]) -> MoveReport:
    async with opened_index(settings) as index:
        return await export_index(index, file)


async def _claim(settings: Settings) -> None:
    """Check that the index is in a format that this release writes."""
    async with opened_index(settings, writes=True):
        pass


def _import(settings: Settings, file: IO[bytes], observer: events.Observer, *, name: str) -> MoveReport:
    """Import without an event loop, so that Ctrl-C ends a read from a terminal."""
    url = index_url(settings)
    if url == OFF:
        raise click.UsageError("this needs an index, and it is off: give --index another value")
    namespace = settings.namespace or DEFAULT_NAMESPACE
    with open_index(url, namespace=namespace, same_registry=settings.same_registry) as index:
        return import_now(index, file, observer=observer, name=name)


@contextmanager
def _opened_for_writing(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for writing. It replaces an existing file only when it is complete."""
    if path == _STANDARD or (path.exists() and not path.is_file()):
        if path != _STANDARD:
            with path.open("wb") as special:
                yield special
        elif sys.stdout is None:
            raise output.OutputFailedError("standard output is closed")
        else:
            yield sys.stdout.buffer
        return
    try:
        handle, made = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        error.filename = str(path)  # the file that was asked for, not our temporary one
        raise
    try:
        with open(handle, "wb") as file:  # noqa: PTH123 a file descriptor
            yield file
        os.replace(made, path)  # noqa: PTH105 mkstemp returns a str
    except BaseException:
        with suppress(OSError):
            os.unlink(made)  # noqa: PTH108 see above
        raise


@contextmanager
def _opened_for_reading(path: Path) -> Iterator[IO[bytes]]:
    if path != _STANDARD:
        with path.open("rb") as file:
            yield file
    elif sys.stdin is None:
        raise CrossmountError("standard input is closed")
    else:
        yield sys.stdin.buffer


def _so_far(moved: events.LayersMoved) -> str:
    return f"{text.count(moved.layers, 'layer')} imported so far: importing again is safe"


def _counted(report: MoveReport) -> str:
    flagged = f", {report.flagged} of them must-mount" if report.flagged else ""
    return f"{text.count(report.layers, 'layer')}{flagged}, {text.count(report.sources, 'source')}"
