"""Groups of options that several commands share."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from crossmount.cli.params import Between
from crossmount.fleet import Patience
from crossmount.transfer import Limits

F = TypeVar("F", bound=Callable[..., Any])

_LIMITS = Limits()


def limit_options(*, images: bool = False) -> Callable[[F], F]:
    """Return a decorator that adds `--uploads`, `--requests` and `--wait`; with `images`, also `--images`."""
    options = [
        _count_option("--uploads", 64, _LIMITS.uploads, "CROSSMOUNT_UPLOADS", "Upload at most N blobs at once."),
        _count_option(
            "--requests",
            256,
            _LIMITS.requests,
            "CROSSMOUNT_REQUESTS",
            "Send at most N HEAD and mount requests at once.",
        ),
        click.option(
            "--wait",
            type=click.FloatRange(min=0),
            default=Patience().limit,
            metavar="SECONDS",
            envvar="CROSSMOUNT_WAIT",
            show_envvar=True,
            show_default=True,
            help="Wait at most this long while another pusher uploads the blob, then mount it; 0 never waits.",
        ),
    ]
    if images:
        options.insert(
            0, _count_option("--images", 64, _LIMITS.images, "CROSSMOUNT_IMAGES", "Copy at most N images at once.")
        )

    def add(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def pace_options(command: str, *, requests: int) -> Callable[[F], F]:
    """Return a decorator that adds `--requests` and `--rate` to a scan or a prune.

    Args:
        command: the command's name, which is part of the names of the environment variables.
        requests: the default of `--requests`.
    """
    variable = f"CROSSMOUNT_{command.upper()}"
    at_once = _count_option(
        "--requests", 256, requests, f"{variable}_REQUESTS", "Send at most N requests at once."
    )
    rate = click.option(
        "--rate",
        type=click.FloatRange(min=0, min_open=True),
        metavar="N",
        envvar=f"{variable}_RATE",
        show_envvar=True,
        help="Send each registry at most N requests a second. Default: no limit except its Retry-After.",
    )
    return lambda function: at_once(rate(function))


def _count_option(flag: str, most: int, default: int, variable: str, words: str) -> Callable[[F], F]:
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
