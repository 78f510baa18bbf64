"""`crossmount config`."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from crossmount._dataclass import dataclass
from crossmount._secrets import mask_forms, without_userinfo
from crossmount.cli import output
from crossmount.cli.command import Command, json_option
from crossmount.cli.config_file import check_keys, check_values, config_paths, is_settable, option_name, values_for
from crossmount.cli.settings import CommonOption, Invocation
from crossmount.errors import MissingExtraError

_DEFAULTS = {"index": "embedded:", "namespace": "default"}
"""Shown for common options whose default is chosen later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effective:
    """The value that counts for an option of a command, and where it is from."""

    command: tuple[str, ...]
    option: str
    value: str
    origin: str


@click.command(cls=Command)
@json_option
@click.pass_context
def config(ctx: click.Context, as_json: bool) -> None:
    """Show which options count, and where each is from: a file, the environment, or the command line.

    Options may stand in a file, by the same names as on the command line: in /etc/crossmount/config.toml for all
    users, in ~/.config/crossmount/config.toml (XDG_CONFIG_HOME) for you, or in the one file that CROSSMOUNT_CONFIG
    names. The environment overrides files, and the command line overrides both. A key at the top holds for each
    command that has the option; one in a table, for that command. Secrets are masked here.

    \b
    Example:
      index = "redis://index.example:6379/0"
      plain-http-for = ["registry.lan:5000"]
    \b
      [push]
      uploads = 8
    """  # noqa: D301 \b is click's mark for a paragraph that keeps its lines
    run = ctx.ensure_object(Invocation)
    files = {file.path for file in run.files}
    paths = [(path, path in files) for path in config_paths(os.environ)]
    found = [*_common(ctx), *_of_commands(ctx.find_root())]
    if as_json:
        output.document(_document(paths, found))
    else:
        output.lines(_lines(paths, found))


def _common(ctx: click.Context) -> Iterator[Effective]:
    """Yield the common options."""
    root, settings = ctx.find_root(), ctx.ensure_object(Invocation).settings
    values = values_for(ctx.ensure_object(Invocation).files, (), root.command.params)
    for param in root.command.params:
        if not isinstance(param, CommonOption):
            continue
        name = str(param.name)
        value = settings.client.get(name) or getattr(settings, name, None)
        sources = {each.get_parameter_source(name) for each in (ctx, root)}
        if ParameterSource.COMMANDLINE in sources:
            origin = "the command line"
        elif ParameterSource.ENVIRONMENT in sources:
            origin = f"environment: {param.envvar}"
        elif name in values:
            origin = values[name].where
        else:
            value, origin = _DEFAULTS.get(name), "default"
        yield Effective(command=(), option=option_name(param), value=_shown(value), origin=origin)


def _of_commands(root: click.Context) -> Iterator[Effective]:
    """Yield the options of single commands that a file or the environment gives."""
    files = root.ensure_object(Invocation).files
    for words, command in _commands(root.command, root):
        check_keys(files, (), words, command.params)
        values = values_for(files, words, command.params)
        check_values(click.Context(command), values)
        for param in command.params:
            if not is_settable(param) or isinstance(param, CommonOption):
                continue
            given = os.environ.get(str(param.envvar), "") if param.envvar else ""
            if given:
                origin = f"environment: {param.envvar}"
                yield Effective(command=words, option=option_name(param), value=_shown(given), origin=origin)
            elif (found := values.get(str(param.name))) is not None:
                value, origin = _shown(found.value), found.where
                yield Effective(command=words, option=option_name(param), value=value, origin=origin)


def _commands(
    command: click.Command, ctx: click.Context, words: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yield all commands below a group; those whose extra is not installed are left out."""
    if not isinstance(command, click.Group):
        return
    for name in command.list_commands(ctx):
        try:
            found = command.get_command(ctx, name)
        except MissingExtraError:
            continue
        if found is not None:
            yield (*words, name), found
            yield from _commands(found, ctx, (*words, name))


def _shown(value: Any) -> str:
    """Return a value for people, without secrets."""
    if value is None or value in ((), [], ""):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    texts = [value] if isinstance(value, str | int | float | Path) else list(value)
    return " ".join(mask_forms(without_userinfo(str(text)) if "://" in str(text) else str(text)) for text in texts)


def _document(paths: list[tuple[Path, bool]], found: list[Effective]) -> dict[str, Any]:
    """Return the options as a JSON document."""
    return {
        "files": [{"path": str(path), "read": is_read} for path, is_read in paths],
        "options": [
            {
                "command": " ".join(each.command) or None,
                "name": each.option,
                "value": each.value,
                "from": each.origin,
            }
            for each in found
        ],
    }


def _lines(paths: list[tuple[Path, bool]], found: list[Effective]) -> list[str]:
    """Return the options as lines, in columns."""
    names = [" ".join((*each.command, each.option)) for each in found]
    wide, value_wide = max(map(len, names)), max(len(each.value) for each in found)
    return [
        *(f"{path}: {'read' if is_read else 'not there'}" for path, is_read in paths),
        "",
        *(
            f"{name:<{wide}}  {each.value:<{value_wide}}  {each.origin}"
            for name, each in zip(names, found, strict=True)
        ),
    ]
