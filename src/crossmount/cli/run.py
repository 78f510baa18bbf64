"""One run of the command: from arguments to an exit status, and from an error to one line."""

import contextlib
import os
import sys
import traceback
from collections.abc import Sequence

import click

from crossmount.cli.failures import DONE, status_of, words_of
from crossmount.cli.interrupt import Interrupted
from crossmount.cli.log import VERBOSE
from crossmount.cli.output import OutputFailedError
from crossmount.cli.root import crossmount
from crossmount.cli.settings import Invocation
from crossmount.errors import CrossmountError


def run(arguments: Sequence[str]) -> int:
    """Run `crossmount ARGUMENTS` in this process and return its exit status; every error is told here."""
    this = Invocation()
    try:
        status = crossmount.main(list(arguments), prog_name="crossmount", standalone_mode=False, obj=this)
    except (CrossmountError, click.ClickException, Interrupted) as error:
        return _complain(error, this)
    except Exception as error:  # noqa: BLE001 the last place: whatever it is becomes one line and a status
        return _complain(error, this)
    return status if isinstance(status, int) else DONE


def _complain(error: Exception, this: Invocation) -> int:
    with contextlib.suppress(OSError):  # nobody can be told that nobody can be told
        if this.settings.verbose >= VERBOSE:
            traceback.print_exception(error)
        sys.stderr.write(f"crossmount: {words_of(error)}\n")
        sys.stderr.flush()
        if sys.stdout is not None and isinstance(
            error, (OSError, OutputFailedError)
        ):  # of standard output, maybe: Python's own last flush must not fail again
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status_of(error)
