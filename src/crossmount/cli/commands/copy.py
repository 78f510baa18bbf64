"""`crossmount copy`."""

import sys
from pathlib import Path
from typing import TextIO

import click
from click.core import ParameterSource

from crossmount import _formatting as text
from crossmount import events
from crossmount.cli import output
from crossmount.cli.access import index_kind, index_url, warn_if_alone
from crossmount.cli.command import Command, json_option
from crossmount.cli.event_loop import run_async
from crossmount.cli.failures import Interrupted
from crossmount.cli.options import REGISTRY, SIZE, read_lines
from crossmount.cli.progress.display import progress_display
from crossmount.cli.progress.transfer import TransferTracker
from crossmount.cli.settings import settings_of
from crossmount.cli.transfers import (
    TransferOptions,
    append_summary,
    fetched_lines,
    index_status,
    opened_places,
    platform_lines,
    saved_lines,
    transfer_options,
)
from crossmount.errors import CopyFailedError
from crossmount.transfer.cache import DEFAULT_LIMIT, BlobCache
from crossmount.transfer.copy import CopySettings, copy_all
from crossmount.transfer.image_copier import CopyJob, read_list
from crossmount.transfer.report import CopyReport


@click.command(cls=Command)
@click.argument("places", nargs=-1, metavar="SOURCE DEST...")
@json_option
@click.option("--all-tags", is_flag=True, help="Copy every tag of the repository SOURCE.")
@click.option(
    "--from",
    "listed",
    type=click.File(encoding="utf-8"),
    metavar="FILE",
    help="Copy the images in FILE: lines of SOURCE DEST [DEST...]; # starts a comment; - is standard input.",
)
@click.option(
    "--prefer",
    type=REGISTRY,
    multiple=True,
    metavar="REGISTRY",
    envvar="CROSSMOUNT_PREFER",
    show_envvar=True,
    help="Fetch layers from this registry if it has them, even from far away. Repeatable, best first.",
)
@click.option(
    "--cache",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    envvar="CROSSMOUNT_CACHE",
    show_envvar=True,
    help="Cache layers in this folder, which several processes may share.",
)
@click.option(
    "--cache-size",
    type=SIZE,
    default=f"{DEFAULT_LIMIT // 2**30}GiB",
    metavar="SIZE",
    envvar="CROSSMOUNT_CACHE_SIZE",
    show_envvar=True,
    show_default=True,
    help="Most bytes in the cache; the least recently used layers are removed first.",
)
@click.option(
    "--referrers", is_flag=True, help="Also copy signatures, SBOMs and other artifacts that refer to an image."
)
@click.option("--allow-transfer", is_flag=True, help="Transfer must-mount layers that cannot be mounted.")
@transfer_options(images=True)
def copy(
    ctx: click.Context,
    *,
    places: tuple[str, ...],
    as_json: bool,
    all_tags: bool,
    listed: TextIO | None,
    prefer: tuple[str, ...],
    cache: Path | None,
    cache_size: int,
    referrers: bool,
    allow_transfer: bool,
    transfer: TransferOptions,
) -> None:
    """Copy the image SOURCE to DEST, on other registries or the same, byte for byte.

    Each layer takes the cheapest way: it exists; it is mounted on DEST's registry; another worker copies it, and
    then it is mounted; or it is fetched from the nearest registry that has it, and uploaded. The default tag of
    SOURCE is "latest"; the default tag of DEST is SOURCE's. If one image fails, the others are still copied, and
    the exit status is not 0.

    Registries that only the index names are contacted over https, except those in --plain-http-for.

    \b
    Examples:
      crossmount copy a.example/team/app:1 b.example/team/app
      crossmount copy a.example/app b.example/app --all-tags --referrers
      crossmount copy --from images.txt --cache /var/cache/crossmount
    """  # noqa: D301 \b is click's mark for a paragraph that keeps its lines
    if cache is None and ctx.get_parameter_source("cache_size") is ParameterSource.COMMANDLINE:
        raise click.UsageError("--cache-size needs --cache", ctx)
    jobs = _jobs(places, listed, all_tags=all_tags)
    settings = settings_of(ctx)
    display = progress_display(sys.stderr, TransferTracker(names_dest=True), verbose=settings.verbose)
    store = None if cache is None else BlobCache(cache, limit=cache_size)
    embedded = index_kind(index_url(settings)) == "embedded"
    warn_if_alone(settings)

    def observe(event: events.Event) -> None:
        if not (isinstance(event, events.ImageFailed) and _is_all(event, jobs)):
            display.observe(event)

    async def run() -> CopyReport:
        async with opened_places(settings, transfer, display.observe) as (index, registries):
            return await copy_all(
                jobs,
                CopySettings(
                    index=index,
                    registries=registries,
                    prefer=prefer,
                    cache=store,
                    referrers=referrers,
                    allow_transfer=allow_transfer,
                    platforms=transfer.platforms,
                    limits=transfer.limits,
                    patience=transfer.patience,
                    observer=observe,
                ),
            )

    try:
        with display:
            report = run_async(run())
    except Interrupted as interrupted:
        raise interrupted.with_note(_so_far(display.tracker)) from None
    except CopyFailedError as failed:
        if as_json or failed.report.copied:
            append_summary(transfer.summary, failed.report)
            _print_report(failed.report, display.tracker, as_json=as_json, embedded=embedded)
        raise
    append_summary(transfer.summary, report)
    _print_report(report, display.tracker, as_json=as_json, embedded=embedded)


def _jobs(places: tuple[str, ...], listed: TextIO | None, *, all_tags: bool) -> list[CopyJob]:
    """Return the images to copy.

    Raises:
        click.UsageError: SOURCE or DEST is missing, or the list is empty.
        InvalidInputError: a reference breaks its grammar.
    """
    if listed is None:
        if len(places) < 2:
            raise click.UsageError("give SOURCE and DEST, or --from FILE")
        return [CopyJob.of(places[0], places[1:], all_tags=all_tags)]
    if places:
        raise click.UsageError("give SOURCE and DEST, or --from FILE, not both")
    jobs = read_list(read_lines(listed), where=listed.name, all_tags=all_tags)
    if not jobs:
        raise click.UsageError(f"{listed.name}: it lists nothing to copy")
    return jobs


def _is_all(failed: events.ImageFailed, jobs: list[CopyJob]) -> bool:
    """Return whether nothing else was to be copied, or no tags are known: then the command's error says it."""
    if len(jobs) != 1 or len(jobs[0].dests) != 1:
        return False
    return not jobs[0].all_tags or failed.source == jobs[0].source


def _print_report(report: CopyReport, tracker: TransferTracker, *, as_json: bool, embedded: bool) -> None:
    """Print the report of a copy, also if some images failed."""
    try:
        if as_json:
            output.document(report.to_json())
        else:
            names = not output.is_one_terminal()
            failed_first = tracker.index_failed_first
            output.lines(render_copy(report, names=names, index_failed_first=failed_first, embedded=embedded))
    except output.OutputFailedError as error:
        copied = text.count(len(report.copied), "image")
        raise error.with_note(f"{copied} of {len(report.images)} copied nevertheless") from error


def render_copy(
    report: CopyReport, *, names: bool = True, index_failed_first: bool = False, embedded: bool = False
) -> list[str]:
    """Return the lines that report a copy.

    Args:
        report: of the copy.
        names: include a line for each image; it had one on standard error when it was copied.
        index_failed_first: whether the index failed before the first blob.
        embedded: whether the index is the embedded one.
    """
    index = index_status(report.index, failed_first=index_failed_first, embedded=embedded)
    groups = (("mounted", "mounted"), ("already there", "existing"), ("uploaded", "uploaded"))
    caches = sum(image.build_cache for image in report.copied)
    digests = {str(image.digest) for image in report.copied}
    return [
        *(f"copied {image.source} to {image.reference}" for image in report.copied if names),
        *(f"digest {digest}" for digest in digests if len(digests) == 1),
        *platform_lines(*report.copied),
        *([f"{text.count(caches, 'build cache')} of BuildKit"] if caches else []),
        *text.summary((words, report.count(kind), report.bytes(kind)) for words, kind in groups),  # type: ignore[arg-type]
        *fetched_lines(report.blobs("uploaded")),
        *saved_lines(report.tally),
        f"took {text.duration(report.seconds)}, index: {index}",
    ]


def _so_far(tracker: TransferTracker) -> str:
    """Return what an interrupted copy has done."""
    copied = text.count(tracker.images, "image")
    return f"{copied} copied, the others not: copy again to resume"
