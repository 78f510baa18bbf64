"""Long work on a terminal: one bar, and how far it is."""

import time
from collections.abc import Callable
from typing import Generic, TextIO

from rich.console import Console, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from crossmount import events
from crossmount.cli.progress.bars import BAR_WIDTH
from crossmount.cli.progress.screen import Screen
from crossmount.cli.progress.work import S


class WorkBar(Screen, Generic[S]):
    """Observes work and keeps its bar up to date while it is entered."""

    def __init__(
        self,
        stream: TextIO,
        state: S,
        *,
        verbose: int = 0,
        clock: Callable[[], float] = time.monotonic,
        console: Console | None = None,
    ) -> None:
        self.state = state
        super().__init__(stream, state.retries, verbose=verbose, clock=clock, console=console)

    def _taken(self, event: events.Event, now: float) -> str | None:
        self.state.apply(event)
        return self.state.notice(event, now=now, verbose=self._verbose)

    def _drawn(self, now: float) -> RenderableType:
        total = self.state.total
        table = Table.grid(padding=0)
        table.add_column(no_wrap=True, width=BAR_WIDTH)
        table.add_column(no_wrap=True, overflow="ellipsis")
        table.add_row(
            ProgressBar(
                total=None if total is None else max(total, 1),
                completed=self.state.through,
                width=BAR_WIDTH,
                pulse=total is None,
                animation_time=now,
            ),
            Text(f"  {self.state.words()}"),
        )
        return table
