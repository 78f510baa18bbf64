"""`crossmount push`."""

import sys
from typing import TextIO

import click

from crossmount import _formatting as text
from crossmount import events
from crossmount.cli import output
from crossmount.cli.access import index_kind, index_url, warn_if_alone
from crossmount.cli.command import Command, json_option
from crossmount.cli.event_loop import run_async
from crossmount.cli.failures import Interrupted
from crossmount.cli.options import REFERENCE, REGISTRY, SIZE, read_lines
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
    print_same_registry_hint,
    saved_lines,
    transfer_options,
)
from crossmount.errors import CopyFailedError
from crossmount.oci import Reference
from crossmount.oci.image_spool import SPOOL_LIMIT
from crossmount.transfer.push import PushSettings
from crossmount.transfer.push_list import PushJob, push_all, push_one, read_push_list
from crossmount.transfer.report import PushListReport, PushReport


@click.command(cls=Command)
@click.argument("source", required=False, metavar="SOURCE")
@click.argument("dest", type=REFERENCE, required=False, metavar="DEST")
@json_option
@click.option(
    "--from",
    "listed",
    type=click.File(encoding="utf-8"),
    metavar="FILE",
    help="Push the images in FILE: lines of SOURCE DEST; # starts a comment; - is standard input.",
)
@click.option(
    "--tag",
    "tags",
    multiple=True,
    metavar="TAG",
    envvar="CROSSMOUNT_TAG",
    show_envvar=True,
    help="Also tag the image as TAG in DEST's repository. Repeatable.",
)
@click.option(
    "--origins",
    type=REGISTRY,
    multiple=True,
    metavar="REGISTRY",
    envvar="CROSSMOUNT_ORIGINS",
    show_envvar=True,
    help="Fetch layers that SOURCE lacks from this registry only. Repeatable. Default: any that the index names.",
)
@click.option(
    "--spool-limit",
    type=SIZE,
    default=f"{SPOOL_LIMIT // 2**30}GiB",
    metavar="SIZE",
    envvar="CROSSMOUNT_SPOOL_LIMIT",
    show_envvar=True,
    show_default=True,
    help="Most bytes of a tar that is spooled to disk, unpacked, in TMPDIR or /var/tmp.",
)
@click.option(
    "--ignore-must-mount",
    is_flag=True,
    help="Upload must-mount layers that cannot be mounted, if your policy allows that. Their flags stay.",
)
@transfer_options(images=True)
def push(
    ctx: click.Context,
    *,
    source: str | None,
    dest: Reference | None,
    as_json: bool,
    listed: TextIO | None,
    tags: tuple[str, ...],
    origins: tuple[str, ...],
    spool_limit: int,
    ignore_must_mount: bool,
    transfer: TransferOptions,
) -> None:
    """Push the image SOURCE to the reference DEST: mount the layers that the registry has, upload the rest.

    SOURCE is an image layout: oci:DIR[:TAG], oci-archive:FILE[:TAG], or the path of either; an image of a Docker
    engine, 25 or later, at DOCKER_HOST: docker-daemon:NAME[:TAG]; or - for a tar on standard input. A tar may be
    compressed with gzip or zstd. DEST is [REGISTRY/]NAME[:TAG]; the default tag is "latest".

    A layer that SOURCE lacks is mounted if the index knows where it is, or else fetched from another registry.
    Registries that only the index names are contacted over https, except those in --plain-http-for.

    With --from, one process pushes many images side by side. If one fails, the others are still pushed, and the
    exit status is not 0.

    Progress goes to standard error, the result to standard output.

    \b
    Examples:
      docker save app:1 | crossmount push - registry.example/team/app:1
      crossmount push docker-daemon:app:1 registry.example/team/app:1
    \b
      skopeo copy docker://alpine:3 oci:alpine:3
      crossmount push oci:alpine:3 localhost:5000/alpine:3 --plain-http
    \b
      docker buildx build -o type=oci,dest=app.tar .
      crossmount push app.tar registry.example/team/app:1.2 --tag 1 --tag latest
      crossmount push --from images.txt
    """  # noqa: D301 \b is click's mark for a paragraph that keeps its lines
    jobs = _jobs(source, dest, listed)
    settings = settings_of(ctx)
    tracker = TransferTracker(names_dest=listed is not None, verb="pushed")
    display = progress_display(sys.stderr, tracker, verbose=settings.verbose)
    embedded = index_kind(index_url(settings)) == "embedded"
    warn_if_alone(settings)
    push_settings = PushSettings(
        tags=tags,
        platforms=transfer.platforms,
        origins=origins or None,
        spool_limit=spool_limit,
        limits=transfer.limits,
        patience=transfer.patience,
        ignore_must_mount=ignore_must_mount,
        observer=events.never_raising(display.observe),
    )

    async def run() -> PushReport | PushListReport:
        async with opened_places(settings, transfer, display.observe) as (index, registries):
            if listed is not None:
                return await push_all(jobs, push_settings, index=index, registries=registries)
            return await push_one(jobs[0], push_settings, index=index, registries=registries)

    def show(report: PushReport | PushListReport) -> None:
        append_summary(transfer.summary, report)
        try:
            if as_json:
                output.document(report.to_json())
            elif isinstance(report, PushListReport):
                names, failed_first = not output.is_one_terminal(), tracker.index_failed_first
                output.lines(
                    render_pushes(report, names=names, index_failed_first=failed_first, embedded=embedded)
                )
            else:
                output.lines(render_push(report, index_failed_first=tracker.index_failed_first, embedded=embedded))
        except output.OutputFailedError as error:
            raise error.with_note(_nevertheless(report)) from error
        print_same_registry_hint(report)

    try:
        with display:
            report = run_async(run())
    except Interrupted as interrupted:
        raise interrupted.with_note(_so_far(tracker, None if listed else jobs[0].dest)) from None
    except CopyFailedError as failed:
        if as_json or failed.report.done:
            show(failed.report)
        raise
    show(report)


def _jobs(source: str | None, dest: Reference | None, listed: TextIO | None) -> list[PushJob]:
    """Return the images to push.

    Raises:
        click.UsageError: SOURCE or DEST is missing, or the list is empty.
        InvalidInputError: a line of the list is not valid.
    """
    if listed is None:
        if source is None or dest is None:
            raise click.UsageError("give SOURCE and DEST, or --from FILE")
        return [PushJob(source, dest)]
    if source is not None:
        raise click.UsageError("give SOURCE and DEST, or --from FILE, not both")
    jobs = read_push_list(read_lines(listed), where=listed.name)
    if not jobs:
        raise click.UsageError(f"{listed.name}: it lists nothing to push")
    return jobs


def _nevertheless(report: PushReport | PushListReport) -> str:
    """Return what was pushed, for the case that the report could not be printed."""
    if isinstance(report, PushReport):
        return f"{report.reference} was pushed nevertheless"
    return f"{text.count(len(report.done), 'image')} of {len(report.images)} pushed nevertheless"


def render_pushes(
    report: PushListReport, *, names: bool = True, index_failed_first: bool = False, embedded: bool = False
) -> list[str]:
    """Return the lines that report the pushes of a list; with `names` also one for each image."""
    index = index_status(report.index, failed_first=index_failed_first, embedded=embedded)
    groups = (("mounted", "mounted"), ("already there", "existing"), ("uploaded", "uploaded"))
    return [
        *(f"pushed {image.reference}" for image in report.done if names),
        *platform_lines(*report.done),
        *text.summary((words, report.count(kind), report.bytes(kind)) for words, kind in groups),  # type: ignore[arg-type]
        *fetched_lines(report.blobs("uploaded")),
        *saved_lines(report.tally),
        f"took {text.duration(report.seconds)}, index: {index}",
    ]


def render_push(report: PushReport, *, index_failed_first: bool = False, embedded: bool = False) -> list[str]:
    """Return the lines that report a push. A failure of the index has had its own warning."""
    index = index_status(report.index, failed_first=index_failed_first, embedded=embedded)
    groups = (("mounted", "mounted"), ("already there", "existing"), ("uploaded", "uploaded"))
    return [
        f"pushed {report.reference}{', a build cache of BuildKit' if report.build_cache else ''}",
        f"digest {report.digest}",
        *([f"tags {', '.join(report.tags)}"] if report.tags else []),
        *platform_lines(report),
        *text.summary((words, report.count(kind), report.bytes(kind)) for words, kind in groups),  # type: ignore[arg-type]
        *fetched_lines(blob for blob in report.blobs if blob.outcome == "uploaded"),
        *saved_lines(report.tally),
        f"took {text.duration(report.seconds)}, index: {index}",
    ]


def _so_far(tracker: TransferTracker, dest: Reference | None) -> str:
    """Return what an interrupted push left on the registry; without `dest`, the pushes of a list."""
    if dest is None:
        return f"{text.count(tracker.images, 'image')} pushed, the others not: push again to resume"
    if tracker.tagged:
        return f"after {dest} was pushed"
    if tracker.blobs and all(blob.outcome for blob in tracker.blobs.values()):
        return f"during the last step: {dest} may or may not exist, push again to be sure"
    return f"{dest} was not pushed: push again to resume"
