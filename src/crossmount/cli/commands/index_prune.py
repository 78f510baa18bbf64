"""`crossmount index prune`."""

import sys
from dataclasses import replace
from functools import partial

import click

from crossmount import _formatting as text
from crossmount.cli import output
from crossmount.cli.access import client_options, opened_index
from crossmount.cli.command import Command, json_option
from crossmount.cli.failures import FAILED
from crossmount.cli.options import Amount, Checked, pace_options
from crossmount.cli.progress.bulk import PruneTracker, run_bulk
from crossmount.cli.progress.display import progress_display
from crossmount.cli.settings import settings_of
from crossmount.maintenance import PruneReport
from crossmount.maintenance import prune as prune_index
from crossmount.maintenance.prune import REQUESTS
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
