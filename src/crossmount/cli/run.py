"""The `crossmount` command: the table of its commands, and one run of it."""

import contextlib
import os
import re
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import version

import click

from crossmount._secrets import mask_forms, mask_values, userinfo_of
from crossmount.cli.command import LazyCommand, LazyGroup
from crossmount.cli.failures import DONE, Interrupted, message_of, status_of
from crossmount.cli.output import VERBOSE_LOG, OutputFailedError
from crossmount.cli.settings import Invocation
from crossmount.errors import CrossmountError

COMMANDS = {
    "push": LazyCommand(
        "crossmount.cli.commands.push",
        "push",
        "Push an image: mount what the registry has, upload the rest.",
    ),
    "copy": LazyCommand(
        "crossmount.cli.commands.copy", "copy", "Copy images between registries, each layer once."
    ),
    "scan": LazyCommand(
        "crossmount.cli.commands.scan", "scan", "Record in the index which layers a registry has."
    ),
    "events": LazyCommand(
        "crossmount.cli.commands.events", "events", "Update the index from the events that a registry sends."
    ),
    "sources": LazyCommand(
        "crossmount.cli.commands.layers", "sources", "List the repositories that a layer could be mounted from."
    ),
    "locate": LazyCommand(
        "crossmount.cli.commands.locate", "locate", "Show which registries have a layer, or how much of an image."
    ),
    "add": LazyCommand(
        "crossmount.cli.commands.layers", "add", "Add a repository to the index as a source of a layer."
    ),
    "forget": LazyCommand(
        "crossmount.cli.commands.layers", "forget", "Remove a repository from the index as a source of a layer."
    ),
    "must-mount": LazyCommand(
        "crossmount.cli.commands.layers", "must_mount", "Show or clear a layer's must-mount flag."
    ),
    "fleet": LazyCommand(
        "crossmount.cli.commands.fleet",
        "fleet",
        "Show the uploads in progress, and the pushers that wait.",
    ),
    "index": LazyCommand("crossmount.cli.commands.index", "index", "Inspect and maintain the index."),
    "doctor": LazyCommand(
        "crossmount.cli.commands.doctor",
        "doctor",
        "Check the index, the registry, the credentials and mounts.",
    ),
    "proxy": LazyCommand(
        "crossmount.cli.commands.proxy", "proxy", "Run a proxy that mounts layers for any client."
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
    """Push each layer once per fleet: layers that the registry already has are mounted, not uploaded.

    An index that many pushers share records which repository has which layer. It only gives hints: the
    registry decides every time, and a failure of the index never fails a push.

    Exit status: 0 done, 1 failed, 2 wrong usage, 3 a must-mount layer could not be mounted, 4 denied by the
    registry, 130 interrupted.
    """


def run(arguments: Sequence[str]) -> int:
    """Run `crossmount ARGUMENTS` in this process, print its error if there is one, and return the exit status."""
    this = Invocation()
    try:
        status = crossmount.main(list(arguments), prog_name="crossmount", standalone_mode=False, obj=this)
    except (CrossmountError, click.ClickException, Interrupted) as error:
        return _complain(error, this, arguments)
    except Exception as error:  # noqa: BLE001 a defect, too, ends in one line and a status
        return _complain(error, this, arguments)
    return status if isinstance(status, int) else DONE


def _complain(error: Exception, this: Invocation, arguments: Sequence[str]) -> int:
    """Print an error, without the `user:password@` of any argument, and return the exit status."""
    given = [secret for secret in map(userinfo_of, arguments) if ":" in secret]
    # a password with a slash may be taken for a path, and only a part of it be told
    secrets = given + [part for secret in given for part in re.split("[/@]", secret.partition(":")[2])]
    with contextlib.suppress(OSError):  # standard error is closed or full
        if this.settings.verbose >= VERBOSE_LOG:
            trace = "".join(traceback.format_exception(error))
            sys.stderr.write(mask_forms(mask_values(trace, secrets)))
        sys.stderr.write(f"crossmount: {mask_values(message_of(error), secrets)}\n")
        sys.stderr.flush()
        if sys.stdout is not None and isinstance(
            error, (OSError, OutputFailedError)
        ):  # maybe of standard output: then Python's own flush at exit must not fail again
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status_of(error)
