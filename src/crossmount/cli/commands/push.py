"""`crossmount push`."""

import sys
from collections.abc import Iterable

import click

from crossmount.cli import output, text
from crossmount.cli.access import (
    client_options,
    index_for_push,
    index_kind,
    index_url,
    special_options,
    warn_if_alone,
)
from crossmount.cli.command import Command, json_option
from crossmount.cli.event_loop import run_async
from crossmount.cli.failures import Interrupted
from crossmount.cli.options import (
    REFERENCE,
    REGISTRY,
    SIZE,
    limit_options,
    platform_option,
    registry_options,
    upload_options,
)
from crossmount.cli.progress.display import progress_display
from crossmount.cli.progress.transfer import TransferTracker
from crossmount.cli.settings import settings_of
from crossmount.fleet import Patience
from crossmount.oci import Reference
from crossmount.oci.image_spool import SPOOL_LIMIT
from crossmount.transfer import BlobReport, Limits, PushReport, Registries
from crossmount.transfer import push as push_image
from crossmount.transfer.report import FROM_CACHE, IndexState


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
@platform_option
@click.option(
    "--origins",
    type=REGISTRY,
    multiple=True,
    metavar="REGISTRY",
    envvar="CROSSMOUNT_ORIGINS",
    show_envvar=True,
    help="Fetch layers that SOURCE lacks from this registry only. Repeatable. Default: any that the index names.",
)
@registry_options
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
@upload_options
@limit_options()
@click.pass_context
def push(
    ctx: click.Context,
    *,
    source: str,
    dest: Reference,
    as_json: bool,
    tags: tuple[str, ...],
    platforms: tuple[str, ...],
    origins: tuple[str, ...],
    plain_http_for: tuple[str, ...],
    insecure_for: tuple[str, ...],
    spool_limit: int,
    uploads: int,
    requests: int,
    wait: float,
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
    options = client_options(settings)
    special = special_options(options, plain_http_for, insecure_for)
    warn_if_alone(settings)

    async def run() -> PushReport:
        async with (
            index_for_push(settings) as index,
            Registries(options, special=special, observer=display.observe) as registries,
        ):
            return await push_image(
                source,
                dest,
                tags=tags,
                platforms=platforms,
                index=index,
                registries=registries,
                origins=origins or None,
                spool_limit=spool_limit,
                limits=Limits(uploads=uploads, requests=requests),
                patience=Patience(limit=wait),
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


def platform_lines(*reports: PushReport) -> list[str]:
    """Return the line for the platforms that were chosen, if there is one choice in all reports."""
    chosen = {", ".join(report.platforms) for report in reports if report.platforms}
    return [f"platforms {names}, in a new index with these alone" for names in chosen if len(chosen) == 1]


def fetched_lines(uploaded: Iterable[BlobReport]) -> list[str]:
    """Return a line for each place that bytes of uploaded blobs were fetched from."""
    fetched: dict[str, tuple[int, int]] = {}
    for blob in uploaded:
        if blob.fetched_from is not None:
            number, size = fetched.get(blob.fetched_from, (0, 0))
            fetched[blob.fetched_from] = number + 1, size + blob.size
    return [
        f"  {text.count(number, 'blob')}, {text.size(size)}, from {'the cache' if place == FROM_CACHE else place}"
        for place, (number, size) in fetched.items()
    ]


def index_status(state: IndexState, *, failed_first: bool, embedded: bool = False) -> str:
    """Return whether the index worked. `failed_first`: it failed before the first blob."""
    words = {
        "ok": "ok (embedded, this host only)" if embedded else "ok",
        "degraded": "failed" if failed_first else "failed at times",
        "off": "off",
    }
    return words[state]


def _so_far(tracker: TransferTracker, dest: Reference) -> str:
    """Return what an interrupted push left on the registry."""
    if tracker.tagged:
        return f"after {dest} was pushed"
    if tracker.blobs and all(blob.outcome for blob in tracker.blobs.values()):
        return f"during the last step: {dest} may or may not exist, push again to be sure"
    return f"{dest} was not pushed: push again to resume"
