"""Progress on a terminal: a bar for each blob, never more of them than there is room for."""

import time
from collections.abc import Callable
from typing import TextIO

from rich.console import Console, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from crossmount import events
from crossmount.cli import text
from crossmount.cli.progress.screen import Screen
from crossmount.cli.progress.state import BlobState, PushState, doing

HEAD_WIDTH, BAR_WIDTH = 23, 20
ROWS_MAX = 30
LINES_BESIDE = 4
"""Lines of the terminal that rows leave free: the sum, what was left out, the command, the prompt."""

_COLOURS = {"existing": "cyan", "mounted": "green", "uploaded": "yellow", None: "blue"}


class Bars(Screen):
    """Observes a push and keeps its bars up to date while it is entered."""

    def __init__(
        self,
        stream: TextIO,
        *,
        verbose: int = 0,
        clock: Callable[[], float] = time.monotonic,
        console: Console | None = None,
    ) -> None:
        self.state = PushState()
        super().__init__(stream, self.state.retries, verbose=verbose, clock=clock, console=console)

    def _taken(self, event: events.Event, now: float) -> str | None:
        self.state.apply(event, now=now)
        return self.state.notice(event, now=now, verbose=self._verbose)

    def _drawn(self, now: float) -> RenderableType:
        if not self.state.blobs:
            return Text("")
        rows, hidden = self.state.rows(min(ROWS_MAX, self._console.height - LINES_BESIDE))
        table = Table.grid(padding=0)  # releases of rich differ in whether padding counts as width
        for width in (HEAD_WIDTH, BAR_WIDTH):
            table.add_column(no_wrap=True, width=width)
        table.add_column(
            no_wrap=True, width=max(self._console.width - HEAD_WIDTH - BAR_WIDTH, 1), overflow="ellipsis"
        )
        for blob in rows:
            head = f"{text.short(blob.digest)}  {text.size(blob.size):>7}"
            table.add_row(head, _bar(blob, now), Text(f"  {doing(blob, now)}", _colour(blob)))
        more = f", {hidden} not shown" if hidden else ""
        outer = Table.grid()
        outer.add_row(table)
        outer.add_row(Text(f"{self.state.total()}{more}", "dim"))
        return outer


def _bar(blob: BlobState, now: float) -> ProgressBar:
    colour = _colour(blob)
    return ProgressBar(
        total=max(blob.size, 1),
        completed=max(blob.size, 1) if blob.outcome else blob.there,
        width=BAR_WIDTH,
        pulse=blob.outcome is None and blob.uploading_since is None,
        animation_time=now,
        complete_style=colour,
        finished_style=colour,
    )


def _colour(blob: BlobState) -> str:
    return _COLOURS[blob.outcome]
