"""The `crossmount` command: the table of its commands, and one run of it."""

import contextlib
import os
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import version

import click

from crossmount.cli.command import LazyCommand, LazyGroup
from crossmount.cli.failures import DONE, Interrupted, message_of, status_of
from crossmount.cli.output import VERBOSE_LOG, OutputFailedError
from crossmount.cli.settings import Invocation
from crossmount.errors import CrossmountError

COMMANDS = {
    "push": LazyCommand(
        "crossmount.cli.commands.push", "push", "Push an image: mount what the registry holds, upload the rest."
    ),
    "copy": LazyCommand(
        "crossmount.cli.commands.copy", "copy", "Copy images between registries, each layer once."
    ),
    "scan": LazyCommand("crossmount.cli.commands.scan", "scan", "Tell the index what a registry holds already."),
    "events": LazyCommand(
        "crossmount.cli.commands.events", "events", "Keep the index true by what a registry tells of itself."
    ),
    "sources": LazyCommand(
        "crossmount.cli.commands.layers", "sources", "List where a layer could be mounted from."
    ),
    "locate": LazyCommand(
        "crossmount.cli.commands.locate", "locate", "Say where a layer is, or an image, and how much of it."
    ),
    "add": LazyCommand(
        "crossmount.cli.commands.layers", "add", "Tell the index of a repository that holds a layer."
    ),
    "forget": LazyCommand("crossmount.cli.commands.layers", "forget", "Drop a repository as a source of a layer."),
    "must-mount": LazyCommand(
        "crossmount.cli.commands.layers", "must_mount", "Show or lift a layer's must-mount flag."
    ),
    "fleet": LazyCommand(
        "crossmount.cli.commands.fleet", "fleet", "Show who uploads what right now, and who waits."
    ),
    "index": LazyCommand("crossmount.cli.commands.index", "index", "Look at the index and after it, or stop it."),
    "doctor": LazyCommand(
        "crossmount.cli.commands.doctor", "doctor", "Say what is reachable, as whom, and what it can do."
    ),
    "proxy": LazyCommand(
        "crossmount.cli.commands.proxy", "proxy", "Stand before a registry and mount for any client."
    ),
    "demo": LazyCommand(
        "crossmount.cli.demo.command", "demo", "Push eight images that share layers, and count the bytes."
    ),
}


def _print_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    del param
    if value and not ctx.resilient_parsing:
        click.echo(f"crossmount {version('crossmount')}")
        ctx.exit()


@click.command(cls=LazyGroup, lazy=COMMANDS)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Print the version and exit.",
)
def crossmount() -> None:
    """Push each layer once per fleet: layers that the registry already holds are mounted, not uploaded.

    An index shared by many pushers remembers which repository holds which layer. It only hints: the
    registry decides every time, and a push never fails for the index.

    Exit status: 0 done, 1 failed, 2 wrong usage, 3 a must-mount layer could not be mounted, 4 not allowed by
    the registry, 130 interrupted.
    """


def run(arguments: Sequence[str]) -> int:
    """Run `crossmount ARGUMENTS` in this process and return its exit status; every error is told here."""
    this = Invocation()
    try:
        status = crossmount.main(list(arguments), prog_name="crossmount", standalone_mode=False, obj=this)
    except (CrossmountError, click.ClickException, Interrupted) as error:
        return _complain(error, this)
    except Exception as error:  # noqa: BLE001 the last place: whatever it is becomes one line and a status
        return _complain(error, this)
    return status if isinstance(status, int) else DONE


def _complain(error: Exception, this: Invocation) -> int:
    with contextlib.suppress(OSError):  # nobody can be told that nobody can be told
        if this.settings.verbose >= VERBOSE_LOG:
            traceback.print_exception(error)
        sys.stderr.write(f"crossmount: {message_of(error)}\n")
        sys.stderr.flush()
        if sys.stdout is not None and isinstance(
            error, (OSError, OutputFailedError)
        ):  # of standard output, maybe: Python's own last flush must not fail again
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status_of(error)
