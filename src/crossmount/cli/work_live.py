"""Long work on a terminal: one bar, and how far it is."""

import threading
import time
from collections.abc import Callable
from typing import Generic, Self, TextIO

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from crossmount import events
from crossmount.cli import text
from crossmount.cli.progress_live import BAR_WIDTH
from crossmount.cli.work_progress import S


class WorkBar(Generic[S]):
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
        self._changing = threading.Lock()  # the screen is drawn from a thread of rich's
        self._verbose = verbose
        self._clock = clock
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
        """Leave the last state on the screen, and say of retries what was only counted."""
        self._live.stop()
        for words in self.state.retries.rest():
            self._say(words)

    def observe(self, event: events.Event) -> None:
        """Take an event in; a notice is printed above the bar."""
        with self._changing:
            self.state.apply(event)
            words = self.state.notice(event, now=self._clock(), verbose=self._verbose)
        if words:
            self._say(words)

    def render(self) -> RenderableType:
        """Return what the screen shows now."""
        with self._changing:
            total, through, words = self.state.total, self.state.through, self.state.words()
        table = Table.grid(padding=0)
        table.add_column(no_wrap=True, width=BAR_WIDTH)
        table.add_column(no_wrap=True, overflow="ellipsis")
        table.add_row(
            ProgressBar(
                total=None if total is None else max(total, 1),
                completed=through,
                width=BAR_WIDTH,
                pulse=total is None,
                animation_time=self._clock(),
            ),
            Text(f"  {words}"),
        )
        return table

    def _say(self, words: str) -> None:
        self._console.print(text.one_line(words), markup=False, soft_wrap=True)
