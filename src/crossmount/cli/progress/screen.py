"""What a terminal shows of work while it goes on: a part that is drawn anew, and notices above it."""

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Self, TextIO

from rich.console import Console, RenderableType
from rich.live import Live

from crossmount import events
from crossmount.cli import text
from crossmount.cli.progress.retries import Retries


class Screen(ABC):
    """Observes work and keeps the terminal up to date while it is entered.

    Args:
        stream: the terminal.
        retries: what is told of requests that are sent again.
        verbose: how much is told unasked.
        clock: seconds, for speeds and for what moves.
        console: rich's view of the terminal; made from `stream` if it is None.
    """

    def __init__(
        self,
        stream: TextIO,
        retries: Retries,
        *,
        verbose: int = 0,
        clock: Callable[[], float] = time.monotonic,
        console: Console | None = None,
    ) -> None:
        self._retries = retries
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

    @abstractmethod
    def _taken(self, event: events.Event, now: float) -> str | None:
        """Take an event in; return what to say of it at once, if anything."""

    @abstractmethod
    def _drawn(self, now: float) -> RenderableType:
        """Return what is to be seen now."""

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        """Draw how it ended, leave that on the screen, and say of retries what was only counted."""
        self._live.stop()
        for words in self._retries.rest():
            self._say(words)

    def observe(self, event: events.Event) -> None:
        """Take an event in; a notice is printed above what is drawn."""
        with self._changing:
            words = self._taken(event, self._clock())
        if words:
            self._say(words)

    def render(self) -> RenderableType:
        """Return what the screen shows now."""
        with self._changing:
            return self._drawn(self._clock())

    def _say(self, words: str) -> None:
        self._console.print(text.one_line(words), markup=False, soft_wrap=True)
