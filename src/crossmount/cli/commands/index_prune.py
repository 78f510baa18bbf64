"""`crossmount index prune`."""

import sys
from dataclasses import replace
from functools import partial

import click

from crossmount.cli import output, text
from crossmount.cli.access import client_options, opened_index
from crossmount.cli.command import Command, json_option
from crossmount.cli.failures import FAILED
from crossmount.cli.options import pace_options
from crossmount.cli.params import Checked
from crossmount.cli.progress.bulk import PruneTracker
from crossmount.cli.progress.display import progress_display
from crossmount.cli.running import run_bulk
from crossmount.cli.settings import settings_of
from crossmount.maintenance import PruneReport
from crossmount.maintenance import prune as prune_index
from crossmount.maintenance.prune import REQUESTS
from crossmount.oci.reference import normalise_registry

STRANDED_SHOWN = 20

_AGAIN = "run the same command again to go on"


@click.command(cls=Command)
@click.option(
    "--registry",
    type=Checked("registry", normalise_registry),
    metavar="REGISTRY",
    help="Verify what is on this registry. Default: on all that the index names.",
)
@click.option(
    "--repository",
    "patterns",
    multiple=True,
    metavar="PATTERN",
    help="Verify what is in repositories whose name fits, as in 'team/*'. Repeatable.",
)
@click.option(
    "--sample",
    type=click.FloatRange(min=0, max=100, min_open=True),
    default=100.0,
    metavar="PERCENT",
    help="Verify only so many percent, chosen by chance.",
)
@pace_options("prune", requests=REQUESTS)
@click.option("--dry-run", is_flag=True, help="Say what is gone, and forget nothing.")
@click.option("--afresh", is_flag=True, help="Do not go on with a prune that was not finished, begin again.")
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
    """Ask registries whether they still hold what the index says, and forget what is gone, for everybody.

    Each source is asked for with a HEAD, with the credentials that are stored for its registry. What may not be
    read, or may be hidden from whoever asks, stays, and so do must-mount flags. Nothing is changed on a registry.

    A prune that was killed goes on where it was if the same command is run again within a day. It looks at all
    keys of the index's server, a few at a time: that takes a user who may, crossmount-operator in deploy/redis.
    """
    settings = settings_of(ctx)
    display = progress_display(sys.stderr, PruneTracker(), verbose=settings.verbose)

    async def work() -> PruneReport:
        async with opened_index(settings) as index:
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
    """Return what a finished prune is to a reader; `chosen` are the options that said what to look at."""
    counts = report.counts
    odd = [
        (counts["denied"], "that we may not read, kept"),
        (counts["unseen"], "that may be hidden from us, kept"),
        (counts["failed"], "not verified, kept"),
        (counts["unreachable"], "on registries that do not answer, kept"),
    ]
    gone = "gone, and left in the index" if report.dry_run else "gone, and forgotten"
    looked = sum(counts.values())
    if not looked and chosen and not report.resumed:
        return [f"nothing in the index fits {chosen}", f"took {text.duration(report.seconds)}"]
    lines = [
        f"looked at {text.count(looked, 'source')}"
        + (", after those of a prune that was not finished" if report.resumed else ""),
        f"  {counts['held']:>8} still there",
        f"  {counts['gone']:>8} {gone}",
        *(f"  {number:>8} {words}" for number, words in odd if number),
    ]
    if report.stranded:
        one = len(report.stranded) == 1
        lines.append(
            f"{text.count(len(report.stranded), 'layer')} may only be mounted and {'has' if one else 'have'} no "
            "source left: nobody can push what needs "
            f"{'it' if one else 'them'} (crossmount add, or crossmount must-mount --clear):"
        )
        lines.extend(f"  {layer}" for layer in report.stranded[:STRANDED_SHOWN])
        if len(report.stranded) > STRANDED_SHOWN:
            lines.append(f"  and {len(report.stranded) - STRANDED_SHOWN} more")
    return [*lines, f"took {text.duration(report.seconds)}"]


def prune_so_far(tracker: PruneTracker, *, dry_run: bool) -> str:
    """Say what a prune that was not finished left behind."""
    gone = f"{tracker.verdicts['gone']} gone" + ("" if dry_run else " and forgotten")
    return f"looked at {text.count(tracker.verdicts.total(), 'source')}, {gone}: {_AGAIN}"
