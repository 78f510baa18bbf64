"""Which progress a push gets: bars on a terminal, lines elsewhere."""

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from importlib import import_module
from typing import Protocol, Self, TextIO, cast

from crossmount import events
from crossmount.cli.log import VERBOSE
from crossmount.cli.progress.lines import Lines
from crossmount.cli.progress.state import PushState


class Progress(AbstractContextManager["Progress"], Protocol):
    """Shows a push while it is entered."""

    @property
    def state(self) -> PushState:
        """What was seen so far."""
        ...

    def observe(self, event: events.Event) -> None:
        """Take an event in."""
        ...

    def __enter__(self) -> Self:
        """Begin to show."""
        ...


def progress(
    stream: TextIO, *, verbose: int, names_dest: bool = False, env: Mapping[str, str] | None = None
) -> Progress:
    """Return bars where they can be drawn, lines otherwise."""
    if can_draw(stream, verbose=verbose, env=env):
        bars = import_module("crossmount.cli.progress.bars")  # rich takes a tenth of a second to load
        return cast("Progress", bars.Bars(stream, verbose=verbose))
    return Lines(stream, verbose=verbose, names_dest=names_dest)


def can_draw(stream: TextIO, *, verbose: int, env: Mapping[str, str] | None = None) -> bool:
    """Tell whether `stream` is a terminal that can move its cursor, and has no log on it."""
    term = (os.environ if env is None else env).get("TERM", "")
    return verbose < VERBOSE and stream.isatty() and term not in {"", "dumb"}
