"""`crossmount push`."""

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from crossmount.cli import output, text
from crossmount.cli.access import client_options, index_for_push
from crossmount.cli.command import Command, json_option
from crossmount.cli.interrupt import Interrupted
from crossmount.cli.loop import run_async
from crossmount.cli.params import REFERENCE, Between
from crossmount.cli.progress.choice import Progress, progress
from crossmount.cli.progress.state import PushState, summary
from crossmount.cli.settings import Settings, settings_of
from crossmount.fleet import Patience
from crossmount.oci import Reference
from crossmount.transfer import Limits, PushReport
from crossmount.transfer import push as push_image
from crossmount.transfer.report import IndexState

F = TypeVar("F", bound=Callable[..., Any])

_LIMITS = Limits()
_PATIENCE = Patience()


def limit_options(*, images: bool = False) -> Callable[[F], F]:
    """Return what adds the options for how much goes on side by side; `images` is for a copy of many."""
    options = [
        click.option(
            "--uploads",
            type=Between(1, 64),
            default=_LIMITS.uploads,
            metavar="N",
            envvar="CROSSMOUNT_UPLOADS",
            show_envvar=True,
            show_default=True,
            help="Upload at most N blobs at once.",
        ),
        click.option(
            "--requests",
            type=Between(1, 256),
            default=_LIMITS.requests,
            metavar="N",
            envvar="CROSSMOUNT_REQUESTS",
            show_envvar=True,
            show_default=True,
            help="Ask the registry about, or to mount, at most N blobs at once.",
        ),
        click.option(
            "--wait",
            type=click.FloatRange(min=0),
            default=_PATIENCE.limit,
            metavar="SECONDS",
            envvar="CROSSMOUNT_WAIT",
            show_envvar=True,
            show_default=True,
            help="Wait at most this long for another's upload of the same blob, to mount it then; 0 never waits.",
        ),
    ]
    if images:
        options.insert(
            0,
            click.option(
                "--images",
                type=Between(1, 64),
                default=_LIMITS.images,
                metavar="N",
                envvar="CROSSMOUNT_IMAGES",
                show_envvar=True,
                show_default=True,
                help="Have at most N images on their way at once.",
            ),
        )

    def add(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return add


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
    """Push the image SOURCE to the reference DEST: mount what the registry holds already, upload the rest.

    SOURCE is an image layout: oci:DIR[:TAG], oci-archive:FILE[:TAG], or the bare path of either. DEST is
    [REGISTRY/]NAME[:TAG]; without a tag it is "latest".

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
    shown = progress(sys.stderr, verbose=settings.verbose)
    limits, patience = Limits(uploads=uploads, requests=requests), Patience(limit=wait)
    try:
        with shown:
            report = run_async(_push(source, dest, settings, limits, patience, shown))
    except Interrupted as interrupted:
        raise interrupted.saying(_how_far(shown.state, dest)) from None
    try:
        if as_json:
            output.document(report.to_json())
        else:
            output.lines(told(report, never_served=shown.state.never_served))
    except output.OutputFailedError as error:
        raise error.saying(f"{report.reference} was pushed all the same") from error


async def _push(
    source: str, dest: Reference, settings: Settings, limits: Limits, patience: Patience, shown: Progress
) -> PushReport:
    async with index_for_push(settings) as index:
        return await push_image(
            source,
            dest,
            index=index,
            options=client_options(settings),
            limits=limits,
            patience=patience,
            observer=shown.observe,
        )


def told(report: PushReport, *, never_served: bool = False) -> list[str]:
    """Return what a finished push is to a reader; a warning has told him why the index did not serve."""
    groups = (("mounted", "mounted"), ("already there", "existing"), ("uploaded", "uploaded"))
    return [
        f"pushed {report.reference}",
        f"digest {report.digest}",
        *summary((words, report.count(kind), report.bytes(kind)) for words, kind in groups),  # type: ignore[arg-type]
        f"took {text.duration(report.seconds)}, index: {index_words(report.index, never_served=never_served)}",
    ]


def index_words(state: IndexState, *, never_served: bool) -> str:
    """Say whether the index served."""
    words = {
        "ok": "ok",
        "degraded": "did not serve" if never_served else "did not serve all the time",
        "off": "off",
    }
    return words[state]


def _how_far(state: PushState, dest: Reference) -> str:
    """Say what an interrupted push left behind."""
    if state.tagged:
        return f"after {dest} was pushed"
    if state.blobs and all(blob.outcome for blob in state.blobs.values()):
        return f"in the last step: {dest} may be there or not, push again to be sure"
    return f"{dest} was not pushed: push again to go on from what has arrived"
