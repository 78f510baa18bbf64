"""The `crossmount` command, and one run of it."""

import contextlib
import json
import os
import re
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import click

from crossmount._secrets import mask_forms, mask_values, userinfo_of
from crossmount.cli.command import LazyGroup
from crossmount.cli.failures import DONE, Interrupted, message_of, status_of
from crossmount.cli.output import VERBOSE_LOG, OutputFailedError
from crossmount.cli.settings import Invocation
from crossmount.cli.table import COMMANDS, version_line
from crossmount.errors import CrossmountError

_LOGIN = (
    "crossmount uses the logins of docker, podman and skopeo: run docker login REGISTRY, podman login REGISTRY or "
    "skopeo login REGISTRY"
)
"""What to do in place of `login` and `logout`, which other clients have."""


def _print_version(ctx: click.Context, param: click.Parameter | None, value: bool) -> None:
    del param
    if value and not ctx.resilient_parsing:
        click.echo(version_line())
        ctx.exit()


class RootGroup(LazyGroup):
    """The group of all commands; it knows the words that other clients have for its options."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands, and the topics of the documentation."""
        from crossmount.cli import topics  # noqa: PLC0415 for help only

        super().format_commands(ctx, formatter)
        with formatter.section("Documentation"):
            formatter.write_text("  ".join(name for name in topics.names() if name not in self.lazy))
            formatter.write_text("Read them by: crossmount help TOPIC; crossmount help topics lists all.")

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a command; `version`, `login` and `status` do what they do elsewhere."""
        match args:
            case ["version", *_]:
                _print_version(ctx, None, value=True)
            case ["status", *rest]:
                args = ["index", "status", *rest]
            case ["login" | "logout" as name, *rest]:
                advice = _LOGIN.replace(" login ", f" {name} ").replace("REGISTRY", _host(rest))
                raise click.UsageError(f"no command {name!r}: {advice}", ctx)
        return super().resolve_command(ctx, args)


def _host(words: Sequence[str]) -> str:
    """Return the registry that a login is for; the word REGISTRY if it could be an option or a secret."""
    return words[0] if len(words) == 1 and re.fullmatch(r"[\w.-]+(:\d+)?", words[0]) else "REGISTRY"


@click.command(cls=RootGroup, lazy=COMMANDS)
@click.option(
    "-V",
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
    registry, 130 interrupted (Ctrl-C), 143 ended (SIGTERM).
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
    # a password with a slash may be taken for a path, and an error may repeat a part of it alone
    secrets = given + [part for secret in given for part in re.split("[/@]", secret.partition(":")[2])]
    with contextlib.suppress(OSError):  # standard error is closed or full
        if this.settings.verbose >= VERBOSE_LOG:
            trace = "".join(traceback.format_exception(error))
            sys.stderr.write(mask_forms(mask_values(trace, secrets)))
        words = mask_values(message_of(error), secrets)
        sys.stderr.write(f"crossmount: {words}\n")
        sys.stderr.flush()
        if "--json" in arguments and not this.document_printed:
            _print_error_document(error, words)
        if sys.stdout is not None and isinstance(
            error, (OSError, OutputFailedError)
        ):  # maybe of standard output: then Python's own flush at exit must not fail again
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status_of(error)


def _print_error_document(error: Exception, words: str) -> None:
    """Print the document of a failed command, which has no other one."""
    if sys.stdout is None or isinstance(error, (BrokenPipeError, OutputFailedError)):
        return
    facts: dict[str, Any] = {"kind": type(error).__name__, "message": words, "exit_status": status_of(error)}
    if isinstance(error, CrossmountError):
        facts |= error.facts
    sys.stdout.write(json.dumps({"error": facts}, indent=2) + "\n")
    sys.stdout.flush()
