"""Progress on standard error: plain lines for a log; bars on a terminal, in `screen`."""

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Generic, Self, TextIO, TypeVar, cast

from crossmount import _formatting as text
from crossmount import events
from crossmount.cli.output import VERBOSE_LOG
from crossmount.cli.progress.tracker import Tracker

T = TypeVar("T", bound=Tracker)

STATUS_SECONDS = 10.0
"""Minimum seconds between two status lines."""


class Display(ABC, Generic[T]):
    """Shows work while it is entered; `observe` is the observer of the work's events.

    Attributes:
        tracker: the state of the work.
    """

    def __init__(self, tracker: T, *, verbose: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self.tracker = tracker
        self._verbose = verbose
        self._clock = clock

    @abstractmethod
    def observe(self, event: events.Event) -> None:
        """Update what is shown by an event."""

    @abstractmethod
    def _print(self, line: str) -> None:
        """Print one line, which has no control characters."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        """Print the number of retries that got no line of their own."""
        for line in self.tracker.retries.remaining():
            self._print(text.one_line(line))


class LineDisplay(Display[T]):
    """Prints plain lines."""

    def __init__(
        self, stream: TextIO, tracker: T, *, verbose: int = 0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(tracker, verbose=verbose, clock=clock)
        self._stream = stream
        self._status_at = clock()

    def observe(self, event: events.Event) -> None:
        """Print the lines for an event, if any."""
        now = self._clock()
        self.tracker.apply(event, now=now)
        if notice := self.tracker.notice(event, now=now, verbose=self._verbose):
            self._print(text.one_line(notice))
        for line in self.tracker.log_lines(event, now=now):
            self._print(line)
        if now - self._status_at >= STATUS_SECONDS:
            self._status_at = now
            if status := self.tracker.status():
                self._print(status)

    def _print(self, line: str) -> None:
        self._stream.write(f"{line}\n")
        self._stream.flush()


def progress_display(
    stream: TextIO, tracker: T, *, verbose: int, env: Mapping[str, str] | None = None
) -> Display[T]:
    """Return bars if `stream` is a terminal that can move its cursor and gets no log; plain lines otherwise."""
    term = (os.environ if env is None else env).get("TERM", "")
    if verbose < VERBOSE_LOG and stream.isatty() and term not in {"", "dumb"}:
        from crossmount.cli.progress.screen import ScreenDisplay  # noqa: PLC0415 rich takes a while to load

        return cast("Display[T]", ScreenDisplay(stream, tracker, verbose=verbose))
    return LineDisplay(stream, tracker, verbose=verbose)
