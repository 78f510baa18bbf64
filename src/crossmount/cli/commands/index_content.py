"""`crossmount index prune`, `export`, `import` and `upgrade`: the content of an index, changed or moved."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO

import click

from crossmount import _formatting as text
from crossmount import events
from crossmount.cli import output
from crossmount.cli.access import DEFAULT_NAMESPACE, client_options, index_url, opened_index
from crossmount.cli.command import Command, json_option
from crossmount.cli.event_loop import run_async
from crossmount.cli.failures import FAILED, Interrupted
from crossmount.cli.options import DIGEST, Amount, Checked, pace_options
from crossmount.cli.progress.bulk import PruneTracker, run_bulk
from crossmount.cli.progress.display import progress_display
from crossmount.cli.settings import OFF, Settings, settings_of
from crossmount.errors import CrossmountError, IndexFailedError
from crossmount.index.blocking import open_index
from crossmount.maintenance import MoveReport, PruneReport, export_index
from crossmount.maintenance import prune as prune_index
from crossmount.maintenance.export_import import import_now
from crossmount.maintenance.prune import REQUESTS
from crossmount.maintenance.repair import OldFlag, UpgradeReport, upgrade_index
from crossmount.oci import Digest
from crossmount.oci.reference import normalise_registry

STRANDED_SHOWN = 20

_AGAIN = "run the same command again to resume"


@click.command(cls=Command)
@click.option(
    "--registry",
    type=Checked("registry", normalise_registry),
    metavar="REGISTRY",
    help="Verify sources on this registry. Default: on all registries in the index.",
)
@click.option(
    "--repository",
    "patterns",
    multiple=True,
    metavar="PATTERN",
    help="Verify sources whose repository matches, such as 'team/*'. Repeatable.",
)
@click.option(
    "--sample",
    type=Amount(0, 100, above=True),
    default=100.0,
    metavar="PERCENT",
    help="Verify a random sample of this many percent.",
)
@pace_options("prune", requests=REQUESTS)
@click.option("--dry-run", is_flag=True, help="Show what is gone, and remove nothing.")
@click.option("--afresh", is_flag=True, help="Start again instead of resuming an unfinished prune.")
@json_option
@click.pass_context
def prune(
    ctx: click.Context,
    *,
    registry: str | None,
    patterns: tuple[str, ...],
    sample: float,
    requests: int,
    rate: float | None,
    dry_run: bool,
    afresh: bool,
    as_json: bool,
) -> None:
    """Ask registries whether they still have the sources in the index, and remove those that are gone.

    Each source is checked with a HEAD request and the credentials stored for its registry. Sources that
    cannot be read, or that the registry may hide from these credentials, stay, and so do must-mount flags. Nothing
    is changed on a registry.

    If a prune was killed, the same command resumes it within a day. It reads all keys of the index's server, a few
    at a time. This takes a Redis user that is allowed to: crossmount-operator in deploy/redis.
    """
    settings = settings_of(ctx)
    display = progress_display(sys.stderr, PruneTracker(), verbose=settings.verbose)

    async def work() -> PruneReport:
        async with opened_index(settings, writes=not dry_run) as index:
            return await prune_index(
                index,
                registry=registry,
                patterns=patterns,
                sample=sample,
                options=replace(client_options(settings), rate=rate),
                requests=requests,
                dry_run=dry_run,
                afresh=afresh,
                observer=display.observe,
            )

    report = run_bulk(work(), display, partial(prune_so_far, dry_run=dry_run))
    if as_json:
        output.document(report.to_json())
    else:
        chosen = ([f"--registry {registry}"] if registry else []) + [f"--repository {each}" for each in patterns]
        output.lines(render_prune(report, " ".join(chosen)))
    if not report.complete:
        ctx.exit(FAILED)


def render_prune(report: PruneReport, chosen: str = "") -> list[str]:
    """Return the lines that report a prune; `chosen` are the options that selected the sources."""
    counts = report.counts
    odd = [
        (counts["denied"], "not readable with our credentials, kept"),
        (counts["unseen"], "maybe hidden from our credentials, kept"),
        (counts["failed"], "not verified, kept"),
        (counts["unreachable"], "on registries that do not answer, kept"),
    ]
    gone = "gone, kept by the dry run" if report.dry_run else "gone, removed from the index"
    looked = sum(counts.values())
    if not looked and chosen and not report.resumed:
        return [f"nothing in the index matches {chosen}", f"took {text.duration(report.seconds)}"]
    lines = [
        f"looked at {text.count(looked, 'source')}" + (", resuming an unfinished prune" if report.resumed else ""),
        f"  {counts['held']:>8} still there",
        f"  {counts['gone']:>8} {gone}",
        *(f"  {number:>8} {words}" for number, words in odd if number),
    ]
    if report.mended:
        lines.append(f"  {report.mended:>8} evicted in part, mended")
    if report.stranded:
        one = len(report.stranded) == 1
        lines.append(
            f"{text.count(len(report.stranded), 'must-mount layer')} without a source, images with "
            f"{'it' if one else 'them'} cannot be pushed (crossmount add, or crossmount must-mount --clear):"
        )
        lines.extend(f"  {layer}" for layer in report.stranded[:STRANDED_SHOWN])
        if len(report.stranded) > STRANDED_SHOWN:
            lines.append(f"  and {len(report.stranded) - STRANDED_SHOWN} more")
    return [*lines, f"took {text.duration(report.seconds)}"]


def prune_so_far(tracker: PruneTracker, *, dry_run: bool) -> str:
    """Return what an unfinished prune has done."""
    gone = f"{tracker.verdicts['gone']} gone" + ("" if dry_run else " and removed")
    return f"looked at {text.count(tracker.verdicts.total(), 'source')}, {gone}: {_AGAIN}"


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
            error.filename = str(file)  # the error of a write does not name the file
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
        error.filename = str(path)  # name the user's file, not our temporary one
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


@click.command(cls=Command)
@click.argument("layers", metavar="[LAYER]...", nargs=-1, type=DIGEST)
@click.option("--clear", is_flag=True, help="Remove the flags of 0.1.0, instead of carrying them over.")
@click.option("--dry-run", is_flag=True, help="Show the flags of 0.1.0, and change nothing.")
@json_option
@click.pass_context
def upgrade(ctx: click.Context, *, layers: tuple[Digest, ...], clear: bool, dry_run: bool, as_json: bool) -> None:
    """Carry must-mount flags of version 0.1.0 over: since then they are keys that pushers cannot write.

    Old flags have no effect until then. Any pusher could set one, and who did was not recorded, so look at them
    with --dry-run first: it shows where each layer is. Name the LAYERs whose flags should count, all by default;
    --clear removes those that should not. All else that 0.1.0 wrote is still read, and renewed in today's form by
    pushes.

    An interrupted upgrade goes on where it was when the command runs again. Without LAYERs it reads all keys of
    the index's server. This takes a Redis user that is allowed to: crossmount-operator in deploy/redis.
    """
    report = run_async(_upgrade(settings_of(ctx), layers, clear=clear, dry_run=dry_run))
    if as_json:
        output.document(report.to_json())
        return
    done = "found, nothing was changed" if report.done == "nothing" else report.done
    left = report.flags - len(report.found)
    output.lines(
        [
            f"{text.count(report.flags, 'must-mount flag')} of 0.1.0 {done}",
            *map(_described, report.found),
            *([f"  and {left} more"] if left else []),
        ]
    )


def _described(flag: OldFlag) -> str:
    size = "size unknown" if flag.size is None else text.size(flag.size)
    more = f" and {len(flag.sources) - 1} more" if len(flag.sources) > 1 else ""
    return f"  {flag.layer}  {size}, in {flag.sources[0] if flag.sources else 'no known repository'}{more}"


async def _upgrade(settings: Settings, layers: tuple[Digest, ...], *, clear: bool, dry_run: bool) -> UpgradeReport:
    async with opened_index(settings) as index:
        return await upgrade_index(index, only=layers, clear=clear, dry_run=dry_run)
