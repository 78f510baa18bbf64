"""Progress of running work on standard error: its state, made from events, and plain lines of it for a log.

Bars on a terminal are in `screen`.
"""

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import field
from typing import Generic, Self, TextIO, TypeVar, cast

from crossmount import _formatting as text
from crossmount import events
from crossmount._dataclass import dataclass
from crossmount.cli.output import VERBOSE_LOG

LONG_WAIT = 3.0
"""A retry that waits at least this many seconds is reported even without -v."""

QUIET_SECONDS = 1.0
"""Minimum seconds for which further retries of the same cause are only counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One bar on a terminal.

    Attributes:
        label: text before the bar.
        text: text after the bar.
        done: how much of `total` is done.
        total: None if it is unknown; then the bar pulses.
        waiting: the bar pulses although `total` is known.
        ended: it will not change any more; only such bars stay on the screen after a failure.
        colour: of the bar and of `text`; None takes the terminal's defaults.
    """

    label: str = ""
    text: str
    done: int
    total: int | None
    waiting: bool = False
    ended: bool = False
    colour: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """The terminal's view of the work: bars, and one line below them if `footer` is not empty."""

    bars: Sequence[Bar]
    footer: str = ""


@dataclass(slots=True)
class _Reported:
    quiet_until: float
    suppressed: int = 0


@dataclass(slots=True)
class RetryLog:
    """Selects the retries that get a line, since many requests often fail together for one reason."""

    _reported: dict[tuple[str, str], _Reported] = field(default_factory=dict)

    def line(self, event: events.Retrying, *, now: float, verbose: int) -> str | None:
        """Return the line for a retry, or None if the retry is only counted.

        The first retry of a host and a cause gets a line. Those that follow while it waits are counted, and the
        next line includes their number. Without `verbose` only long waits are reported.
        """
        if not verbose and event.wait < LONG_WAIT:
            return None
        reported = self._reported.get((event.host, event.cause))
        if reported is not None and now < reported.quiet_until:
            reported.suppressed += 1
            return None
        more = _and_more(reported.suppressed) if reported is not None and reported.suppressed else ""
        self._reported[event.host, event.cause] = _Reported(now + max(event.wait, QUIET_SECONDS))
        return (
            f"crossmount: {event.method} {event.host}: {event.cause}: "
            f"attempt {event.attempt} failed, again in {text.duration(event.wait)}{more}"
        )

    def remaining(self) -> list[str]:
        """Return a line for each cause with retries that were only counted, and reset the counts."""
        lines = [
            f"crossmount: {host}: {cause}{_and_more(reported.suppressed)}"
            for (host, cause), reported in self._reported.items()
            if reported.suppressed
        ]
        self._reported.clear()
        return lines


def _and_more(number: int) -> str:
    return f", and {number} more like the last one"


@dataclass(slots=True)
class Tracker(ABC):
    """State of one piece of work.

    Attributes:
        retries: which retries were reported.
    """

    retries: RetryLog = field(default_factory=RetryLog, init=False)

    @abstractmethod
    def apply(self, event: events.Event, *, now: float) -> None:
        """Update the state by an event that arrived at `now` seconds."""

    def notice(self, event: events.Event, *, now: float, verbose: int) -> str | None:
        """Return the line to print at once for an event, on a terminal and in a log; None for most events."""
        if isinstance(event, events.Retrying):
            return self.retries.line(event, now=now, verbose=verbose)
        return self._notice(event, verbose=verbose)

    @abstractmethod
    def _notice(self, event: events.Event, *, verbose: int) -> str | None:
        """Return the line to print at once for an event that is no retry."""

    def log_lines(self, event: events.Event, *, now: float) -> Iterator[str]:
        """Yield the lines that only a log gets after an event, since it has no bars."""
        del event, now
        yield from ()

    def status(self) -> str | None:
        """Return the progress, which a log gets now and then; None if it gets none."""
        return None

    @abstractmethod
    def view(self, height: int, *, now: float) -> View:
        """Return what a terminal with `height` lines shows at `now` seconds."""


T = TypeVar("T", bound=Tracker)

STATUS_SECONDS = 10.0
"""Minimum seconds between two status lines."""


class Display(ABC, Generic[T]):
    """Shows the progress of work inside a `with` block; `observe` is the observer of its events.

    Attributes:
        tracker: the state of the work.
    """

    def __init__(self, tracker: T, *, verbose: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self.tracker = tracker
        self._verbose = verbose
        self._clock = clock

    @abstractmethod
    def observe(self, event: events.Event) -> None:
        """Update the display by an event."""

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
