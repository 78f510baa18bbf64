"""Options that several commands share, and the types of their values, which the library's parsers check."""

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Generic, TextIO, TypeVar

import click

from crossmount._parsing import byte_size
from crossmount.cli.settings import Invocation
from crossmount.errors import InvalidDigestError, InvalidInputError
from crossmount.oci import Digest, Reference
from crossmount.oci.reference import normalise_registry
from crossmount.registry import ClientOptions

T = TypeVar("T")

_LINE_MAX = 64 * 1024
"""Most characters in a line of a list."""

_AUTHORITY = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<host>[^\[\]:\s]+)):(?P<port>[0-9]{1,5})")


class Checked(click.ParamType, Generic[T]):  # type: ignore[type-arg]  # generic in new releases of click only
    """A value that a function of the library parses."""

    def __init__(self, name: str, make: Callable[[str], T]) -> None:
        self.name = name
        self._make = make

    def convert(self, value: str | T, param: click.Parameter | None, ctx: click.Context | None) -> T:
        """Parse the value; a value that breaks the grammar is a usage error."""
        if not isinstance(value, str) or isinstance(value, Digest):
            return value  # type: ignore[return-value]  # click converts a default once more
        try:
            return self._make(value)
        except InvalidInputError as error:
            self.fail(str(error), param, ctx)


def parse_digest(text: str) -> Digest:
    """Parse a digest.

    Raises:
        InvalidDigestError: it is none, or one that was shortened for a report.
    """
    if is_short(text):
        raise InvalidDigestError(
            f"{text!r} is the start of a digest: give all of it, as crossmount locate IMAGE --json prints it"
        )
    return Digest(text)


def is_short(text: str) -> bool:
    """Return whether a text is a digest as reports show it, without or with its algorithm."""
    return re.fullmatch(r"(?:sha(?:256|512):)?[0-9a-f]{12}", text) is not None


class Between(click.IntRange):
    """A whole number from `least` to `most`; the error for another value names both."""

    def __init__(self, least: int, most: int) -> None:
        super().__init__(least, most)
        self._words = f"give a whole number from {least} to {most}"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parse the number."""
        try:
            return int(super().convert(value, param, ctx))
        except click.BadParameter:
            self.fail(f"{value!r}: {self._words}", param, ctx)


class Amount(click.FloatRange):
    """A number from `least` (itself included unless `above`) to `most`; the error for any other value says so."""

    def __init__(self, least: float, most: float | None = None, *, above: bool = False) -> None:
        super().__init__(least, most, min_open=above)
        low = f"above {least:g}" if above else f"of at least {least:g}"
        self._words = f"give a number {low}{'' if most is None else f' and at most {most:g}'}"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Parse the number."""
        try:
            number = float(super().convert(value, param, ctx))
        except click.BadParameter:
            number = math.nan
        if math.isnan(number):  # which no bound excludes
            self.fail(f"{value!r}: {self._words}", param, ctx)
        return number


def read_size(words: str) -> int:
    """Return the number of bytes of a size such as `500`, `512MiB` or `8G`. Units are powers of 1024.

    Raises:
        InvalidInputError: it is not a size.
    """
    size = byte_size(words)
    if size is None:
        raise InvalidInputError(f"{words[:100]!r} is not a size: give bytes, or 512MiB, 8GiB")
    return size


class _Listen(click.ParamType[tuple[str, int]]):
    name = "host:port"

    def convert(
        self, value: str | tuple[str, int], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int]:
        """Parse `host:port` or `[IPv6]:port`."""
        if isinstance(value, tuple):
            return value
        match = _AUTHORITY.fullmatch(value)
        if match is None or int(match["port"]) > 65535:
            self.fail(f"{value!r} is not host:port, with a port up to 65535", param, ctx)
        return match["six"] or match["host"], int(match["port"])


SIZE = Checked("size", read_size)
REGISTRY = Checked("registry", normalise_registry)
REFERENCE = Checked("reference", Reference.parse)
DIGEST = Checked("digest", parse_digest)
LISTEN = _Listen()
FILE = click.Path(exists=True, dir_okay=False, readable=True, path_type=Path)


def read_lines(file: TextIO) -> Iterator[str]:
    """Yield the lines of a list for `--from`, without comments (from `#` on). Some are empty.

    Raises:
        InvalidInputError: the file is not text, or a line is too long.
    """
    try:
        while line := file.readline(_LINE_MAX + 1):
            if len(line) > _LINE_MAX:
                raise InvalidInputError(f"{file.name}: not a list: a line has more than {_LINE_MAX} characters")
            yield line.partition("#")[0].strip()
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{file.name}: not a list: it is not text") from error


F = TypeVar("F", bound=Callable[..., Any])


def upload_options(command: F) -> F:
    """Add `--chunk-size` and `--commit-timeout` to a command that uploads; their values go into the settings."""
    plain = ClientOptions()
    chunk_size = click.option(
        "--chunk-size",
        type=SIZE,
        metavar="SIZE",
        envvar="CROSSMOUNT_CHUNK_SIZE",
        show_envvar=True,
        expose_value=False,
        callback=_set_client_option,
        help="Send blobs in requests of at most SIZE, where a front end limits a request. Default: in one.",
    )
    commit_timeout = click.option(
        "--commit-timeout",
        type=Amount(0, above=True),
        default=plain.commit_timeout,
        metavar="SECONDS",
        envvar="CROSSMOUNT_COMMIT_TIMEOUT",
        show_envvar=True,
        show_default=True,
        expose_value=False,
        callback=_set_client_option,
        help="Wait at most this long for the registry to store a blob whose bytes were sent; then try again.",
    )
    return chunk_size(commit_timeout(command))


def _set_client_option(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    if param.name == "chunk_size" and value == 0:
        raise click.BadParameter("give a size above 0", ctx, param)
    run = ctx.ensure_object(Invocation)
    run.settings = replace(run.settings, client={**run.settings.client, str(param.name): value})
    return value


def pace_options(command: str, *, requests: int) -> Callable[[F], F]:
    """Return a decorator that adds `--requests` and `--rate` to a scan or a prune.

    Args:
        command: the command's name, which is part of the names of the environment variables.
        requests: the default of `--requests`.
    """
    variable = f"CROSSMOUNT_{command.upper()}"
    at_once = count_option("--requests", 256, requests, f"{variable}_REQUESTS", "Send at most N requests at once.")
    rate = click.option(
        "--rate",
        type=Amount(0, above=True),
        metavar="N",
        envvar=f"{variable}_RATE",
        show_envvar=True,
        help="Send each registry at most N requests a second. Default: no limit except its Retry-After.",
    )
    return lambda function: at_once(rate(function))


def count_option(flag: str, most: int, default: int, variable: str, words: str) -> Callable[[F], F]:
    """Return an option `flag` whose value is a whole number from 1 to `most`."""
    return click.option(
        flag,
        type=Between(1, most),
        default=default,
        metavar="N",
        envvar=variable,
        show_envvar=True,
        show_default=True,
        help=words,
    )
