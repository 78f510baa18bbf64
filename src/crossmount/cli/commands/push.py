"""`crossmount push`."""

import sys

import click

from crossmount.cli import output, text
from crossmount.cli.access import index_kind, index_url, warn_if_alone
from crossmount.cli.command import Command, json_option
from crossmount.cli.event_loop import run_async
from crossmount.cli.failures import Interrupted
from crossmount.cli.options import REFERENCE, REGISTRY, SIZE
from crossmount.cli.progress.display import progress_display
from crossmount.cli.progress.transfer import TransferTracker
from crossmount.cli.settings import settings_of
from crossmount.cli.transfers import (
    TransferOptions,
    fetched_lines,
    index_status,
    opened_places,
    platform_lines,
    transfer_options,
)
from crossmount.oci import Reference
from crossmount.oci.image_spool import SPOOL_LIMIT
from crossmount.transfer.push import push as push_image
from crossmount.transfer.report import PushReport


@click.command(cls=Command)
@click.argument("source")
@click.argument("dest", type=REFERENCE)
@json_option
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
@transfer_options()
def push(
    ctx: click.Context,
    *,
    source: str,
    dest: Reference,
    as_json: bool,
    tags: tuple[str, ...],
    origins: tuple[str, ...],
    spool_limit: int,
    transfer: TransferOptions,
) -> None:
    """Push the image SOURCE to the reference DEST: mount the layers that the registry has, upload the rest.

    SOURCE is an image layout: oci:DIR[:TAG], oci-archive:FILE[:TAG], or the path of either; an image of a Docker
    engine, 25 or later, at DOCKER_HOST: docker-daemon:NAME[:TAG]; or - for a tar on standard input. A tar may be
    compressed with gzip or zstd. DEST is [REGISTRY/]NAME[:TAG]; the default tag is "latest".

    A layer that SOURCE lacks is mounted if the index knows where it is, or else fetched from another registry.
    Registries that only the index names are contacted over https, except those in --plain-http-for.

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
    """  # noqa: D301 \b is click's mark for a paragraph that keeps its lines
    settings = settings_of(ctx)
    display = progress_display(sys.stderr, TransferTracker(), verbose=settings.verbose)
    warn_if_alone(settings)

    async def run() -> PushReport:
        async with opened_places(settings, transfer, display.observe) as (index, registries):
            return await push_image(
                source,
                dest,
                tags=tags,
                platforms=transfer.platforms,
                index=index,
                registries=registries,
                origins=origins or None,
                spool_limit=spool_limit,
                limits=transfer.limits,
                patience=transfer.patience,
                observer=display.observe,
            )

    try:
        with display:
            report = run_async(run())
    except Interrupted as interrupted:
        raise interrupted.with_note(_so_far(display.tracker, dest)) from None
    try:
        if as_json:
            output.document(report.to_json())
        else:
            embedded = index_kind(index_url(settings)) == "embedded"
            failed_first = display.tracker.index_failed_first
            output.lines(render_push(report, index_failed_first=failed_first, embedded=embedded))
    except output.OutputFailedError as error:
        raise error.with_note(f"{report.reference} was pushed nevertheless") from error


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
        f"took {text.duration(report.seconds)}, index: {index}",
    ]


def _so_far(tracker: TransferTracker, dest: Reference) -> str:
    """Return what an interrupted push left on the registry."""
    if tracker.tagged:
        return f"after {dest} was pushed"
    if tracker.blobs and all(blob.outcome for blob in tracker.blobs.values()):
        return f"during the last step: {dest} may or may not exist, push again to be sure"
    return f"{dest} was not pushed: push again to resume"
