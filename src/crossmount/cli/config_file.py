"""Options from a file: the same names as on the command line, in TOML.

    index = "redis://index.example:6379/0"
    plain-http-for = ["registry.lan:5000"]

    [push]
    uploads = 8

A key at the top sets the option of every command that has it; a key in a table (`["index prune"]`), that of one
command.
Later ones override: the system's file, the user's, the environment, the command line. `CROSSMOUNT_CONFIG` names a
file to read instead of both. Without a file this costs two look-ups of a path.
"""

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from crossmount._dataclass import dataclass
from crossmount.errors import InvalidInputError

VARIABLE = "CROSSMOUNT_CONFIG"
SYSTEM_FILE = Path("/etc/crossmount/config.toml")
_ORDER_NAMES = """
    afresh all-tags check clear dry-run for forget from help install json must-mount once remove version watch why
"""
_ORDERS = frozenset(_ORDER_NAMES.split())
"""Options of a single run. A file cannot set them."""

_COMMON_NAMES = """
    authfile ca-file cert-file index insecure key-file namespace plain-http same-registry trusted-realm verbose
"""
_COMMON = frozenset(_COMMON_NAMES.split())
"""The options of all commands."""

_OWN_NAMES = """
    allow-source allow-transfer auth by cache cache-size chunk-size commit-timeout connections
    events-secret-file grace hold htpasswd idle ignore-must-mount images insecure-for listen metrics-listen
    mount-rights no-access-log origins page plain-http-for platform policy prefer public-url rate referrers
    registry repository requests sample secret-file since since-last spool spool-limit summary tag tls-cert
    tls-key tokens traces uploads upstream wait
"""
OPTION_NAMES = _COMMON | frozenset(_OWN_NAMES.split())
"""All options that a file can set: known without loading the commands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigFile:
    """A file that was read.

    Attributes:
        path: the file.
        text: its text, to find the line of a key.
        content: its content: keys, and tables by the names of commands.
    """

    path: Path
    text: str
    content: Mapping[str, Any]

    def table(self, words: tuple[str, ...]) -> Mapping[str, Any]:
        """Return the table of a command; the keys at the top for none."""
        content = self.content if not words else self.content.get(" ".join(words), {})
        return content if isinstance(content, dict) else {}

    def line_of(self, key: str, words: tuple[str, ...] = ()) -> str:
        """Return the file and the line of a key for a message."""
        current = ""
        for number, line in enumerate(self.text.splitlines(), 1):
            if header := _HEADER.match(line):
                current = header["name"].strip().strip("\"'")
                is_found = not words and current == key
            else:
                is_found = (
                    current == " ".join(words) and re.match(rf"\s*[\"']?{re.escape(key)}\b", line) is not None
                )
            if is_found:
                return f"{self.path}:{number}"
        return str(self.path)


_HEADER = re.compile(r"\s*\[(?P<name>[^\[\]]+)\]")


def config_paths(env: Mapping[str, str]) -> list[Path]:
    """Return the files to read; later ones override. `CROSSMOUNT_CONFIG` replaces both; empty, it means none."""
    if (named := env.get(VARIABLE)) is not None:
        return [Path(named)] if named else []
    home = env.get("HOME")
    folder = (
        Path(env["XDG_CONFIG_HOME"]) if env.get("XDG_CONFIG_HOME") else Path(home, ".config") if home else None
    )
    return [SYSTEM_FILE, *([] if folder is None else [folder / "crossmount" / "config.toml"])]


def read_config(env: Mapping[str, str]) -> tuple[ConfigFile, ...]:
    """Read the files that exist.

    Raises:
        InvalidInputError: a file cannot be read, is not TOML, or `CROSSMOUNT_CONFIG` names none.
    """
    named = env.get(VARIABLE)
    if named and not os.path.exists(named):  # noqa: PTH110 see below
        raise InvalidInputError(f"{VARIABLE} names {named}, which is not there: correct it, or unset it")
    return tuple(_read(path) for path in config_paths(env) if named or os.path.exists(path))  # noqa: PTH110 half the time


def _read(path: Path) -> ConfigFile:
    import tomllib  # noqa: PLC0415 only where there is a file

    text = ""
    try:
        text = path.read_text(encoding="utf-8")
        return ConfigFile(path=path, text=text, content=tomllib.loads(text))
    except OSError as error:
        raise InvalidInputError(f"{path}: cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        match = re.search(r" \(at (?:line (\d+), column \d+|end of document)\)", str(error))
        line = f":{match[1] or len(text.splitlines())}" if match else ""
        why = str(error)[: match.start()] if match else str(error)
        raise InvalidInputError(f"{path}{line}: not TOML: {why[:1].lower()}{why[1:]}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class FileValue:
    """A value of an option, and the place in a file that it is from."""

    value: Any
    where: str


def values_for(
    files: Iterable[ConfigFile], words: tuple[str, ...], params: Iterable[click.Parameter]
) -> dict[str, FileValue]:
    """Return what the files say about the options of one command, by the name of its parameter.

    Args:
        files: later ones override.
        words: the command's name, `("index", "prune")`; empty for the options before it.
        params: the command's parameters.

    Raises:
        InvalidInputError: a value has the wrong type.
    """
    options = {option_name(param): param for param in params if is_settable(param)}
    if words:
        options = {name: param for name, param in options.items() if name not in _COMMON}
    found: dict[str, FileValue] = {}
    for file in files:
        for table in ((), words) if words else ((),):
            content = file.table(table)
            for key, value in content.items():
                param = options.get(key.replace("_", "-"))
                if param is None or (isinstance(value, dict) and not table):  # a table may be a command's
                    continue
                where = file.line_of(key, table)
                found[str(param.name)] = FileValue(value=_typed(param, value, where, key), where=where)
    return found


def is_settable(param: click.Parameter) -> bool:
    """Return whether a file may set a parameter."""
    return isinstance(param, click.Option) and option_name(param) not in _ORDERS and not param.hidden


def option_name(param: click.Parameter) -> str:
    """Return an option's name on the command line, without the dashes."""
    return max(param.opts, key=len).lstrip("-")


def _typed(param: click.Parameter, value: Any, where: str, key: str) -> Any:
    """Return a value in the form that the option takes.

    Raises:
        InvalidInputError: it has another type.
    """
    if not isinstance(param, click.Option):
        return value
    if param.is_flag or param.count:
        wanted, words = (bool, "true or false") if param.is_flag else (int, "a whole number")
        if type(value) is not wanted:
            raise InvalidInputError(f"{where}: {key}: give {words}, not {_shown_type(value)}")
        return value
    if param.multiple:
        value = [value] if isinstance(value, str) else value
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise InvalidInputError(f'{where}: {key}: give a list of texts, ["…"], not {_shown_type(value)}')
        return value
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise InvalidInputError(f"{where}: {key}: give a text or a number, not {_shown_type(value)}")
    if isinstance(param.type, click.Path) and isinstance(value, str):
        return str(Path(value).expanduser())
    return str(value)


def _shown_type(value: Any) -> str:
    names = {bool: "true or false", int: "a number", float: "a number", str: "a text", list: "a list"}
    return names.get(type(value), "a table")


def check_keys(
    files: Iterable[ConfigFile],
    commands: Iterable[str],
    words: tuple[str, ...] = (),
    params: Iterable[click.Parameter] = (),
) -> None:
    """Check the keys at the top of the files, and those in the table of one command.

    Args:
        files: the files.
        commands: the commands whose names a table may have.
        words: the command or group.
        params: its parameters.

    Raises:
        InvalidInputError: a key is no option; the message names the nearest one.
    """
    own = {option_name(param) for param in params if is_settable(param)} - _COMMON if words else OPTION_NAMES
    tables = frozenset(commands)
    for file in files:
        for key, value in file.table(words).items():
            name = key.replace("_", "-")
            if name in own or (isinstance(value, dict) and not words and key.partition(" ")[0] in tables):
                continue
            where, place = file.line_of(key, words), f" of {' '.join(words)}" if words else ""
            if name in _COMMON:
                raise InvalidInputError(f"{where}: {key}: put it at the top of the file: all commands have it")
            if name in _ORDERS:
                raise InvalidInputError(f"{where}: {key}: it says what to do now: give it on the command line")
            import difflib  # noqa: PLC0415 for a wrong key only

            near = difflib.get_close_matches(name, [*own, *tables])
            hint = f"did you mean {near[0]}?" if near else "crossmount config --help says what a file may have"
            raise InvalidInputError(f"{where}: {key}: no such option{place}: {hint}")


def check_values(ctx: click.Context, found: Mapping[str, FileValue]) -> None:
    """Check that the options of a command take the values of the files.

    Raises:
        InvalidInputError: one does not; the message names the place and the option.
    """
    for param in ctx.command.params:
        value = found.get(str(param.name))
        if value is None:
            continue
        try:
            param.type_cast_value(ctx, value.value)
        except click.BadParameter as error:
            words = f"{value.where}: {option_name(param)}: {error.message.rstrip('.')}"
            raise InvalidInputError(words) from error
