"""`crossmount push`."""

import sys

import click

from crossmount.cli import output, text
from crossmount.cli.access import client_options, index_for_push
from crossmount.cli.command import Command, json_option
from crossmount.cli.failures import Interrupted
from crossmount.cli.options import REFERENCE, limit_options
from crossmount.cli.progress.display import Display, progress_display
from crossmount.cli.progress.transfer import TransferTracker
from crossmount.cli.running import run_async
from crossmount.cli.settings import Settings, settings_of
from crossmount.fleet import Patience
from crossmount.oci import Reference
from crossmount.transfer import Limits, PushReport
from crossmount.transfer import push as push_image
from crossmount.transfer.report import IndexState


@click.command(cls=Command)
@click.argument("source")
@click.argument("dest", type=REFERENCE)
@json_option
@limit_options()
@click.pass_context
def push(
    ctx: click.Context,
    source: str,
    dest: Reference,
    as_json: bool,
    uploads: int,
    requests: int,
    wait: float,
) -> None:
    """Push the image SOURCE to the reference DEST: mount the layers that the registry has, upload the rest.

    SOURCE is an image layout: oci:DIR[:TAG], oci-archive:FILE[:TAG], or the path of either. DEST is
    [REGISTRY/]NAME[:TAG]; the default tag is "latest".

    Progress goes to standard error, the result to standard output.

    \b
    Examples:
      docker save app:1 -o app.tar
      crossmount push app.tar registry.example/team/app:1
    \b
      skopeo copy docker://alpine:3 oci:alpine:3
      crossmount push oci:alpine:3 localhost:5000/alpine:3 --plain-http
    \b
      docker buildx build -o type=oci,dest=app.tar .
      crossmount push oci-archive:app.tar registry.example/team/app:1 --json
    """  # noqa: D301 \b is click's mark for a paragraph that keeps its lines
    settings = settings_of(ctx)
    display = progress_display(sys.stderr, TransferTracker(), verbose=settings.verbose)
    limits, patience = Limits(uploads=uploads, requests=requests), Patience(limit=wait)
    try:
        with display:
            report = run_async(_push(source, dest, settings, limits, patience, display))
    except Interrupted as interrupted:
        raise interrupted.with_note(_so_far(display.tracker, dest)) from None
    try:
        if as_json:
            output.document(report.to_json())
        else:
            output.lines(render_push(report, index_failed_first=display.tracker.index_failed_first))
    except output.OutputFailedError as error:
        raise error.with_note(f"{report.reference} was pushed nevertheless") from error


async def _push(
    source: str,
    dest: Reference,
    settings: Settings,
    limits: Limits,
    patience: Patience,
    display: Display[TransferTracker],
) -> PushReport:
    async with index_for_push(settings) as index:
        return await push_image(
            source,
            dest,
            index=index,
            options=client_options(settings),
            limits=limits,
            patience=patience,
            observer=display.observe,
        )


def render_push(report: PushReport, *, index_failed_first: bool = False) -> list[str]:
    """Return the lines that report a push. A failure of the index has had its own warning."""
    index = index_status(report.index, failed_first=index_failed_first)
    groups = (("mounted", "mounted"), ("already there", "existing"), ("uploaded", "uploaded"))
    return [
        f"pushed {report.reference}{', a build cache of BuildKit' if report.build_cache else ''}",
        f"digest {report.digest}",
        *text.summary((words, report.count(kind), report.bytes(kind)) for words, kind in groups),  # type: ignore[arg-type]
        f"took {text.duration(report.seconds)}, index: {index}",
    ]


def index_status(state: IndexState, *, failed_first: bool) -> str:
    """Return whether the index worked. `failed_first`: it failed before the first blob."""
    words = {
        "ok": "ok",
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
