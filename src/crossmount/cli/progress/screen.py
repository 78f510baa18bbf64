"""Bars on a terminal, redrawn in place; other lines are printed above them."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Self, TextIO

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from crossmount import _formatting as text
from crossmount import events
from crossmount.cli.progress.display import Bar, Display, T, View

LABEL_WIDTH, BAR_WIDTH = 23, 16
FREE_COLUMNS = 3
"""Columns at the right that stay free: a terminal shows `^C` behind the last line, and must not begin another."""


class ScreenDisplay(Display[T]):
    """Draws bars, never more than the terminal has lines for.

    Args:
        stream: the terminal.
        tracker: the state of the work.
        verbose: how often `-v` was given.
        clock: seconds, for speeds and for bars that pulse.
        console: rich's view of the terminal; made from `stream` if it is None.
    """

    def __init__(
        self,
        stream: TextIO,
        tracker: T,
        *,
        verbose: int = 0,
        clock: Callable[[], float] = time.monotonic,
        console: Console | None = None,
    ) -> None:
        super().__init__(tracker, verbose=verbose, clock=clock)
        self._failed = False
        self._lock = threading.Lock()  # rich draws from a thread of its own
        self._console = console or Console(file=stream, highlight=False)
        self._live = Live(
            console=self._console,
            get_renderable=self.render,
            refresh_per_second=8,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        """Leave the last state on the screen; after a failure, without the bars of unfinished work."""
        self._failed = bool(exc) and exc[0] is not None
        self._live.transient = self._view(self._clock()) is None  # else an empty line would stay
        self._live.stop()
        super().__exit__(*exc)

    def observe(self, event: events.Event) -> None:
        """Update the bars, and print the notice for an event, if any."""
        with self._lock:
            now = self._clock()
            self.tracker.apply(event, now=now)
            notice = self.tracker.notice(event, now=now, verbose=self._verbose)
        if notice:
            self._print(text.one_line(notice))

    def render(self) -> RenderableType:
        """Return what the screen shows now."""
        now = self._clock()
        view = self._view(now)
        if view is None:
            return Text("")
        label_width = LABEL_WIDTH if any(bar.label for bar in view.bars) else 0
        table = Table.grid(padding=0)  # releases of rich differ in whether padding counts as width
        for width in filter(None, (label_width, BAR_WIDTH)):
            table.add_column(no_wrap=True, width=width)
        room = max(self._console.width - label_width - BAR_WIDTH - FREE_COLUMNS, 1)
        table.add_column(no_wrap=True, width=room, overflow="ellipsis")
        for bar in view.bars:
            cells = (_progress_bar(bar, now), Text(f"  {bar.text}", bar.colour or ""))
            table.add_row(*((bar.label,) if label_width else ()), *cells)
        outer = Table.grid()
        if view.bars:
            outer.add_row(table)
        if view.footer:
            outer.add_row(Text(view.footer, "dim"))
        return outer

    def _view(self, now: float) -> View | None:
        """Return what to draw, None for nothing; after a failure only what ended."""
        with self._lock:
            view = self.tracker.view(self._console.height, now=now)
        if self._failed:
            view = replace(view, bars=[bar for bar in view.bars if bar.ended])
        return view if view.bars or (view.footer and not self._failed) else None

    def _print(self, line: str) -> None:
        self._console.print(text.wrapped(line, self._console.width), markup=False, soft_wrap=True)


def _progress_bar(bar: Bar, now: float) -> ProgressBar:
    styles: dict[str, Any] = {}
    if bar.colour is not None:
        styles = {"complete_style": bar.colour, "finished_style": bar.colour}
    return ProgressBar(
        total=None if bar.total is None else max(bar.total, 1),
        completed=bar.done,
        width=BAR_WIDTH,
        pulse=bar.waiting or bar.total is None,
        animation_time=now,
        **styles,
    )
