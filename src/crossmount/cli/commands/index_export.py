"""`crossmount index export` and `crossmount index import`."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import click

from crossmount import events
from crossmount.cli import output, text
from crossmount.cli.access import DEFAULT_NAMESPACE, index_url, opened_index
from crossmount.cli.command import Command, json_option
from crossmount.cli.failures import Interrupted
from crossmount.cli.running import run_async
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
    """Write all that the index knows of layers into FILE, as JSON lines; '-', the default, is standard output.

    The first line is a header, then comes a line for each layer: its size, whether it may only be mounted, and the
    repositories that hold it by registry, with the seconds for which that is still believed.
    """
    settings = settings_of(ctx)
    with _written(file) as opened:
        report = run_async(_export(settings, opened))
    output.note(f"exported {_counted(report)}")


@click.command("import", cls=Command)
@click.argument("file", type=_FILE, default=_STANDARD, metavar="[FILE]")
@json_option
@click.pass_context
def import_(ctx: click.Context, file: Path, as_json: bool) -> None:
    """Add what `crossmount index export` wrote into FILE to the index; '-', the default, is standard input.

    It is added to what is known, in the namespace that --namespace says: nothing is cut short, no flag is lifted.
    A line that breaks the format ends it; what was read before that stays.
    """
    settings = settings_of(ctx)
    moved = events.LayersMoved(layers=0, sources=0)

    def observe(event: events.Event) -> None:
        nonlocal moved
        if isinstance(event, events.LayersMoved):
            moved = event

    try:
        with _read(file) as opened:
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


def _import(settings: Settings, file: IO[bytes], observer: events.Observer, *, name: str) -> MoveReport:
    """Import without an event loop: standard input may be a terminal, and Ctrl-C has to end a read."""
    url = index_url(settings)
    if url == OFF:
        raise click.UsageError("this needs an index, and it is off: give --index another value")
    with open_index(url, namespace=settings.namespace or DEFAULT_NAMESPACE) as index:
        return import_now(index, file, observer=observer, name=name)


@contextmanager
def _written(path: Path) -> Iterator[IO[bytes]]:
    """Open a file to be written, which takes the place of one that is there only when all is written."""
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
        error.filename = str(path)  # what was asked for, not the file beside it that we would have renamed
        raise
    try:
        with open(handle, "wb") as file:  # noqa: PTH123 a descriptor
            yield file
        os.replace(made, path)  # noqa: PTH105 both are texts
    except BaseException:
        with suppress(OSError):
            os.unlink(made)  # noqa: PTH108 see above
        raise


@contextmanager
def _read(path: Path) -> Iterator[IO[bytes]]:
    if path != _STANDARD:
        with path.open("rb") as file:
            yield file
    elif sys.stdin is None:
        raise CrossmountError("standard input is closed")
    else:
        yield sys.stdin.buffer


def _so_far(moved: events.LayersMoved) -> str:
    return f"{text.count(moved.layers, 'layer')} imported until then: importing them again does no harm"


def _counted(report: MoveReport) -> str:
    flagged = f", {report.flagged} of them must-mount" if report.flagged else ""
    return f"{text.count(report.layers, 'layer')}{flagged}, in {text.count(report.sources, 'place')}"
