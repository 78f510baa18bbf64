"""What the commands share that ask registries for hours: how hard they ask, and what they leave when they stop."""

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import click

from crossmount.cli import output
from crossmount.cli.interrupt import Interrupted
from crossmount.cli.loop import run_async
from crossmount.cli.params import Between
from crossmount.cli.progress.work import S, WorkProgress
from crossmount.errors import CrossmountError

F = TypeVar("F", bound=Callable[..., Any])
R = TypeVar("R")


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


def run_shown(work: Coroutine[Any, Any, R], shown: WorkProgress[S], how_far: Callable[[S], str]) -> R:
    """Run work to its end and show it meanwhile; if it stops before, say how far it came.

    Raises:
        Interrupted: a signal ended it.
        CrossmountError: it failed.
    """
    try:
        with shown:
            return run_async(work)
    except Interrupted as interrupted:
        raise interrupted.saying(how_far(shown.state)) from None
    except CrossmountError:
        if shown.state.begun:
            output.note(how_far(shown.state))
        raise
