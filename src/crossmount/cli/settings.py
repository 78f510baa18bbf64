"""The options common to all commands, as one value and as click options that may stand anywhere."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

OFF = "off"
"""What `--index` is given to do without one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the common options say.

    Attributes:
        index: an index's URL, `off`, or None: the embedded one.
        namespace: the tenant's part of the index; None is the library's default.
        trusted_realms: hosts that may be given a registry's credentials besides its own domain.
        verbose: how often `-v` was given.
    """

    index: str | None = None
    namespace: str | None = None
    plain_http: bool = False
    insecure: bool = False
    ca_file: Path | None = None
    authfile: Path | None = None
    trusted_realms: tuple[str, ...] = ()
    verbose: int = 0


@dataclass(slots=True)
class Invocation:
    """One run of the command: what all its contexts share as `ctx.obj`."""

    settings: Settings = field(default_factory=Settings)


def settings_of(ctx: click.Context) -> Settings:
    """Return what the common options of this run say."""
    return ctx.ensure_object(Invocation).settings


class CommonOption(click.Option):
    """An option that every command takes, before and after the command's name."""


def common_options() -> list[click.Parameter]:
    """Return fresh common options for one command."""
    file = click.Path(exists=True, dir_okay=False, readable=True, path_type=Path)
    return [
        _option(
            ["--index"],
            "INDEX",
            metavar="URL",
            help="The index: redis://, redis+cluster://, redis+sentinel:// (rediss with TLS), unix://, memory:// "
            "or embedded:, or 'off' for none. "
            "Default: the embedded one. With 'off', or while it does not serve, must-mount flags do not count.",
        ),
        _option(
            ["--namespace"],
            "NAMESPACE",
            metavar="NAME",
            help="The tenant's part of the index: one sees only what it recorded itself.",
        ),
        _option(
            ["--plain-http"],
            "PLAIN_HTTP",
            is_flag=True,
            help="Speak http to the registry. Never done unasked, not even on localhost.",
        ),
        _option(["--insecure"], "INSECURE", is_flag=True, help="Do not check the registry's certificate."),
        _option(
            ["--ca-file"], "CA_FILE", type=file, help="Trust the authorities in this PEM file, not the system's."
        ),
        _option(
            ["--authfile"],
            "AUTHFILE",
            type=file,
            help="Take credentials from this file, not from docker's and podman's usual places.",
        ),
        _option(
            ["--trusted-realm", "trusted_realms"],
            "TRUSTED_REALMS",
            multiple=True,
            metavar="HOST",
            help="Let this host, of another domain than the registry's, be given its credentials. Repeatable.",
        ),
        _option(
            ["-v", "--verbose"],
            "VERBOSE",
            count=True,
            help="Say more: -v tells of retries and dropped sources, -vv adds a log and tracebacks.",
        ),
    ]


def _option(names: list[str], variable: str, **details: Any) -> CommonOption:
    return CommonOption(
        names,
        envvar=f"CROSSMOUNT_{variable}",
        show_envvar=True,
        expose_value=False,
        callback=_keep,
        **details,
    )


def _keep(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    """Take an option into the run's settings; a variable counts once, and never over what was given."""
    name = str(param.name)
    given = ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE
    run = ctx.ensure_object(Invocation)
    if value and (given or ctx.parent is None):
        before = getattr(run.settings, name)
        # what can be repeated adds up, before and after the command's name
        run.settings = replace(run.settings, **{name: before + value if name in _ADD_UP and given else value})
    return value


_ADD_UP = {"verbose", "trusted_realms"}
