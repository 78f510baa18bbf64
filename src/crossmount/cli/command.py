"""The `crossmount` command: the classes of commands and groups, and one run of it."""

import contextlib
import gc
import json
import os
import re
import sys
import traceback
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from typing import Any

import click

from crossmount._formatting import wrapped
from crossmount._secrets import mask_forms, mask_values, userinfo_of
from crossmount.cli.config_file import check_keys, check_values, read_config, values_for
from crossmount.cli.entry import COMMANDS, UNUSED, LazyCommand, version_line
from crossmount.cli.failures import DONE, USAGE, Interrupted, message_of, status_of
from crossmount.cli.output import VERBOSE_LOG, OutputFailedError, columns_of, library_log
from crossmount.cli.settings import CommonOption, Invocation, common_options, settings_of
from crossmount.errors import CrossmountError, InvalidInputError

WIDTH = 100
_CONTEXT = {"max_content_width": WIDTH}

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on standard output.")


class _Common(click.Command):
    """Adds the common options, which have their own section in the help."""

    def __init__(self, name: str | None, **details: Any) -> None:
        super().__init__(name, **{"context_settings": _CONTEXT, **details})
        self.params.extend(common_options())

    def get_help_option_names(self, ctx: click.Context) -> list[str]:
        """Return the names of the option for help."""
        del ctx  # click keeps the option of the first context that asks
        return ["-h", "--help"]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments; an option that neither they nor the environment set has the value of the files."""
        run = ctx.ensure_object(Invocation)
        words = tuple(str(each.info_name) for each in _line_of(ctx)[1:])
        if not ctx.resilient_parsing:
            try:
                if not words:
                    run.files = read_config(os.environ)
                if run.files:
                    check_keys(run.files, getattr(self, "lazy", ()), words, self.params)
                    found = values_for(run.files, words, self.params)
                    check_values(ctx, found)
                    ctx.default_map = {name: value.value for name, value in found.items()}
            except InvalidInputError as error:
                run.unreadable = run.unreadable or error
        rest = super().parse_args(ctx, args)
        if run.unreadable is not None and not isinstance(self, click.Group) and self.name != "help":
            raise run.unreadable  # raised this late so that help works
        return rest

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; Ctrl-C outside the event loop ends it as it does inside."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Interrupted from None

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the command's own options, and the names of the common ones."""
        own = [param for param in self.get_params(ctx) if not isinstance(param, CommonOption)]
        _write_options(own, "Options", ctx, formatter)
        with formatter.section("Common options"):
            names = "  ".join(f"{max(param.opts, key=len)}" for param in common_options())
            formatter.write_text(names)
            formatter.write_text("They are explained by: crossmount help options")
        from crossmount.cli import topics  # noqa: PLC0415 for help only

        if ctx.info_name in topics.names():
            formatter.write_paragraph()
            formatter.write_text(f"The page about it: crossmount help {ctx.info_name} --page")


def common_options_text(ctx: click.Context) -> str:
    """Return the help of the common options, for `crossmount help options`."""
    formatter = ctx.make_formatter()
    formatter.write_text("Options of all commands. They may stand before or after the command's name.")
    _write_options(common_options(), "Options", ctx, formatter)
    formatter.write_paragraph()
    formatter.write_text(
        "Options may also be variables, as named above, or stand in a file: crossmount config shows what counts."
    )
    return formatter.getvalue()


def _write_options(
    params: Iterable[click.Parameter], title: str, ctx: click.Context, formatter: click.HelpFormatter
) -> None:
    records = [param.get_help_record(ctx) for param in params if isinstance(param, click.Option)]
    if found := [record for record in records if record is not None]:
        with formatter.section(title):
            formatter.write_dl(found)


def _line_of(ctx: click.Context) -> list[click.Context]:
    """Return the contexts from the program's to this one."""
    line = [ctx]
    while line[0].parent is not None:
        line.insert(0, line[0].parent)
    return line


class Command(_Common):
    """One command."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, with the log on standard error if `-vv` is given."""
        if not gc.isenabled():  # `entry` disables it while modules are loaded; they are loaded now, and stay
            gc.freeze()
            gc.enable()
            for name in UNUSED:  # what the command itself loads from now on, such as a tracer, gets them
                if sys.modules.get(name, gc) is None:
                    del sys.modules[name]
        with library_log(settings_of(ctx).verbose):
            return super().invoke(ctx)


class LazyGroup(_Common, click.Group):
    """A group that lists its commands without importing them."""

    def __init__(self, name: str | None, *, lazy: Mapping[str, LazyCommand], **details: Any) -> None:
        super().__init__(name, no_args_is_help=False, **details)
        self.lazy = lazy

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments. Without any, print the help and exit with the status of a usage error."""
        if not args and not ctx.resilient_parsing:
            click.echo(ctx.get_help(), err=True)
            ctx.exit(USAGE)
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands, in the order of the table."""
        del ctx
        return list(self.lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command and return it, None for an unknown name."""
        del ctx
        entry = self.lazy.get(cmd_name)
        if entry is None:
            return None
        command: click.Command = getattr(import_module(entry.module), entry.name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a command by its name; the error for an unknown name suggests a similar name."""
        name = args[0]
        if name in self.lazy or name.startswith("-"):
            return super().resolve_command(ctx, args)
        import difflib  # noqa: PLC0415 for a wrong name only

        close = difflib.get_close_matches(name, self.lazy)
        hint = f"did you mean {close[0]}?" if close else f"the commands are {', '.join(self.lazy)}"
        raise click.UsageError(f"no command {name!r}: {hint}", ctx)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in self.lazy.items()])

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, then the commands."""
        _Common.format_options(self, ctx, formatter)
        self.format_commands(ctx, formatter)


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
    """The group of all commands; it also understands some commands of other clients."""

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
        """Find a command; `version` and `status` work as in other clients, and `login` gives advice."""
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
    """Return the registry of a login; the word REGISTRY if the argument could be an option or a secret."""
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
    # a password with a slash may look like a path, and an error may repeat a part of it
    secrets = given + [part for secret in given for part in re.split("[/@]", secret.partition(":")[2])]
    with contextlib.suppress(OSError):  # standard error is closed or full
        if this.settings.verbose >= VERBOSE_LOG:
            trace = "".join(traceback.format_exception(error))
            sys.stderr.write(mask_forms(mask_values(trace, secrets)))
        words = mask_values(message_of(error), secrets)
        sys.stderr.write(f"{wrapped(f'crossmount: {words}', columns_of(sys.stderr))}\n")
        sys.stderr.flush()
        if "--json" in arguments and not this.document_printed:
            _print_error_document(error, words)
        if sys.stdout is not None and isinstance(
            error, (OSError, OutputFailedError)
        ):  # maybe of standard output: then Python's own flush at exit must not fail again
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status_of(error)


def _print_error_document(error: Exception, words: str) -> None:
    """Print the JSON document of a command that failed before it printed one."""
    if sys.stdout is None or isinstance(error, (BrokenPipeError, OutputFailedError)):
        return
    facts: dict[str, Any] = {"kind": type(error).__name__, "message": words, "exit_status": status_of(error)}
    if isinstance(error, CrossmountError):
        facts |= error.facts
    sys.stdout.write(json.dumps({"error": facts}, indent=2) + "\n")
    sys.stdout.flush()
