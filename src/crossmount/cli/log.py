"""The library's log on standard error, when it is asked for."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

VERBOSE = 2
"""From this many `-v` on the log is shown, and where an error came from."""


@contextmanager
def shown_log(verbose: int) -> Iterator[None]:
    """Show what crossmount itself logs, and nothing of other libraries: they may log what is secret."""
    if verbose < VERBOSE:
        yield
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s"))
    log = logging.getLogger("crossmount")
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        log.setLevel(level)
        log.removeHandler(handler)


def log_of_service(verbose: int, *, access: bool) -> None:
    """Log to standard error for as long as this process lives: a service's troubles, and its access log."""
    handler, access_level = logging.StreamHandler(), logging.DEBUG if verbose else logging.INFO
    handler.setFormatter(logging.Formatter("%(message)s"))
    for name, level in (
        ("crossmount", logging.INFO if verbose else logging.WARNING),
        ("uvicorn", logging.INFO if verbose else logging.ERROR),
        ("crossmount.proxy.access", access_level if access else logging.WARNING),
    ):
        logging.getLogger(name).setLevel(level)
    for name in ("crossmount", "uvicorn"):
        logging.getLogger(name).addHandler(handler)
