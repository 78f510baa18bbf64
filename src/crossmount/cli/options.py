"""Groups of options that several commands share."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from crossmount.cli.params import Between
from crossmount.fleet import Patience
from crossmount.transfer import Limits

F = TypeVar("F", bound=Callable[..., Any])

_LIMITS = Limits()
_PATIENCE = Patience()


def limit_options(*, images: bool = False) -> Callable[[F], F]:
    """Return what adds the options for how much goes on side by side; `images` is for a copy of many."""
    options = [
        click.option(
            "--uploads",
            type=Between(1, 64),
            default=_LIMITS.uploads,
            metavar="N",
            envvar="CROSSMOUNT_UPLOADS",
            show_envvar=True,
            show_default=True,
            help="Upload at most N blobs at once.",
        ),
        click.option(
            "--requests",
            type=Between(1, 256),
            default=_LIMITS.requests,
            metavar="N",
            envvar="CROSSMOUNT_REQUESTS",
            show_envvar=True,
            show_default=True,
            help="Ask the registry about, or to mount, at most N blobs at once.",
        ),
        click.option(
            "--wait",
            type=click.FloatRange(min=0),
            default=_PATIENCE.limit,
            metavar="SECONDS",
            envvar="CROSSMOUNT_WAIT",
            show_envvar=True,
            show_default=True,
            help="Wait at most this long for another's upload of the same blob, to mount it then; 0 never waits.",
        ),
    ]
    if images:
        options.insert(
            0,
            click.option(
                "--images",
                type=Between(1, 64),
                default=_LIMITS.images,
                metavar="N",
                envvar="CROSSMOUNT_IMAGES",
                show_envvar=True,
                show_default=True,
                help="Have at most N images on their way at once.",
            ),
        )

    def add(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def pace_options(command: str, *, requests: int) -> Callable[[F], F]:
    """Return a decorator that adds `--requests` and `--rate`.

    Args:
        command: whose options they are: variables of the environment are named after it.
        requests: the default of `--requests`.
    """
    at_once = click.option(
        "--requests",
        type=Between(1, 256),
        default=requests,
        metavar="N",
        envvar=f"CROSSMOUNT_{command.upper()}_REQUESTS",
        show_envvar=True,
        show_default=True,
        help="Have at most N requests on their way at once.",
    )
    a_second = click.option(
        "--rate",
        type=click.FloatRange(min=0, min_open=True),
        metavar="N",
        envvar=f"CROSSMOUNT_{command.upper()}_RATE",
        show_envvar=True,
        help="Send a registry at most N requests a second. Default: no limit but its own Retry-After.",
    )
    return lambda function: at_once(a_second(function))
