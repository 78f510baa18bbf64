"""`crossmount index upgrade`."""

import click

from crossmount import _formatting as text
from crossmount.cli import output
from crossmount.cli.access import opened_index
from crossmount.cli.command import Command, json_option
from crossmount.cli.event_loop import run_async
from crossmount.cli.settings import Settings, settings_of
from crossmount.maintenance.upgrade import UpgradeReport, upgrade_index


@click.command(cls=Command)
@click.option("--dry-run", is_flag=True, help="Show the flags of 0.1.0, and change nothing.")
@json_option
@click.pass_context
def upgrade(ctx: click.Context, *, dry_run: bool, as_json: bool) -> None:
    """Carry must-mount flags of version 0.1.0 over: since then they are keys that pushers cannot write.

    Old flags have no effect until then. Any pusher could set one, so look at them with --dry-run first. All else
    that 0.1.0 wrote is still read, and renewed in today's form by pushes.

    An interrupted upgrade goes on where it was when the command runs again. It reads all keys of the index's
    server. This takes a Redis user that is allowed to: crossmount-operator in deploy/redis.
    """
    report = run_async(_upgrade(settings_of(ctx), dry_run=dry_run))
    if as_json:
        output.document(report.to_json())
        return
    done = "found, nothing was changed" if dry_run else "carried over"
    output.lines(
        [
            f"{text.count(report.flags, 'must-mount flag')} of 0.1.0 {done}",
            *(f"  {layer}" for layer in report.layers),
            *([f"  and {report.flags - len(report.layers)} more"] if report.flags > len(report.layers) else []),
        ]
    )


async def _upgrade(settings: Settings, *, dry_run: bool) -> UpgradeReport:
    async with opened_index(settings) as index:
        return await upgrade_index(index, dry_run=dry_run)
