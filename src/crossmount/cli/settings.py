"""The options that all commands have, before and after the command's name, and their values."""

from collections.abc import Mapping
from dataclasses import field, replace
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from crossmount._dataclass import dataclass
from crossmount.cli.config_file import ConfigFile
from crossmount.errors import InvalidInputError

OFF = "off"
"""The value of `--index` for no index."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Values of the common options.

    Attributes:
        index: an index's URL or `off`; None for the embedded index.
        namespace: the tenant's part of the index; None for the library's default.
        same_registry: pairs `A=B` of names of one registry, beside those that the index shares.
        client: the arguments of `ClientOptions` that were given. They are names and values because the class
            imports httpx, which help and completion do not need.
        verbose: how often `-v` was given.
    """

    index: str | None = None
    namespace: str | None = None
    same_registry: tuple[str, ...] = ()
    client: Mapping[str, Any] = field(default_factory=dict)
    verbose: int = 0


@dataclass(slots=True)
class Invocation:
    """State of one run of the command, shared by all its contexts as `ctx.obj`.

    Attributes:
        settings: the values of the common options.
        document_printed: whether the command has printed its JSON document, so that an error prints none.
        files: the files with options that were read.
        unreadable: why one of them cannot be used.
    """

    settings: Settings = field(default_factory=Settings)
    document_printed: bool = False
    files: tuple[ConfigFile, ...] = ()
    unreadable: InvalidInputError | None = None


def settings_of(ctx: click.Context) -> Settings:
    """Return the values of the common options."""
    return ctx.ensure_object(Invocation).settings


class CommonOption(click.Option):
    """An option that every command has."""


def common_options() -> list[click.Parameter]:
    """Return new common options for one command."""
    file = click.Path(exists=True, dir_okay=False, readable=True, path_type=Path)
    return [
        _option(
            ["--index"],
            "INDEX",
            metavar="URL",
            help="The index: redis://, redis+cluster://, redis+sentinel:// (rediss with TLS), unix://, memory:// "
            "or embedded:, or 'off' for none. "
            "Default: embedded:. Without an index, or while it is unreachable, must-mount flags have no effect.",
        ),
        _option(
            ["--namespace"],
            "NAMESPACE",
            metavar="NAME",
            help="The tenant's part of the index. A tenant sees only what it recorded itself. Default: default.",
        ),
        _option(
            ["--same-registry"],
            "SAME_REGISTRY",
            multiple=True,
            metavar="A=B",
            help="A and B are two names of one registry: the index keeps what it knows of A under B. Requests "
            "still go to the name that is given. Repeatable; separated by commas in the variable.",
        ),
        _client_option(
            ["--plain-http"],
            "PLAIN_HTTP",
            is_flag=True,
            help="Use http for the registry. Without this option https is used, even on localhost.",
        ),
        _client_option(["--insecure"], "INSECURE", is_flag=True, help="Do not verify the registry's certificate."),
        _client_option(
            ["--ca-file"],
            "CA_FILE",
            type=file,
            help="Trust the authorities in this PEM file instead of the system's.",
        ),
        _client_option(
            ["--cert-file"],
            "CERT_FILE",
            type=file,
            help="Show the registry this client certificate (PEM) instead of the one in certs.d.",
        ),
        _client_option(
            ["--key-file"],
            "KEY_FILE",
            type=file,
            help="The key of --cert-file (PEM, without a passphrase).",
        ),
        _client_option(
            ["--authfile"],
            "AUTHFILE",
            type=file,
            help="Read credentials from this file instead of the default files of docker and podman.",
        ),
        _client_option(
            ["--trusted-realm", "trusted_realms"],
            "TRUSTED_REALMS",
            multiple=True,
            metavar="HOST",
            help="Send the registry's credentials to this token server in another domain. Repeatable.",
        ),
        _option(
            ["-v", "--verbose"],
            "VERBOSE",
            count=True,
            help="Print more: -v prints retries, dropped sources and where credentials come from, "
            "-vv adds a trace: the index, each request and its status, and tracebacks.",
        ),
    ]


def _option(names: list[str], variable: str, **details: Any) -> CommonOption:
    return CommonOption(
        names,
        envvar=f"CROSSMOUNT_{variable}",
        show_envvar=True,
        expose_value=False,
        **{"callback": _store, **details},
    )


def _client_option(names: list[str], variable: str, **details: Any) -> CommonOption:
    return _option(names, variable, callback=_store_for_client, **details)


def _store(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    """Store an option's value in the run's settings."""
    run, name = ctx.ensure_object(Invocation), str(param.name)
    run.settings = replace(run.settings, **_merged(ctx, name, value, getattr(run.settings, name)))
    return value


def _store_for_client(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    """Store an option's value as an argument of `ClientOptions`, in the run's settings."""
    run, name = ctx.ensure_object(Invocation), str(param.name)
    client = run.settings.client
    run.settings = replace(run.settings, client={**client, **_merged(ctx, name, value, client.get(name))})
    return value


def _merged(ctx: click.Context, name: str, value: Any, before: Any) -> dict[str, Any]:
    """Return an option's value by its name, or nothing. Its variable counts once, and the option overrides it.

    Options that may be repeated add up, before and after the command's name.
    """
    given = ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE
    if not value or not (given or ctx.parent is None):
        return {}
    return {name: before + value if before and given and name in _ADD_UP else value}


_ADD_UP = {"verbose", "trusted_realms", "same_registry"}
