"""How far long work is that is told of by events: lines for logs, or one bar on a terminal, in `work_live`."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib import import_module
from typing import Generic, Protocol, Self, TextIO, TypeVar, cast

from crossmount import events
from crossmount.cli import text
from crossmount.cli.progress.choice import can_draw
from crossmount.cli.progress.retries import Retries

SAID_EVERY = 10.0
"""Seconds between two lines that say how far it is."""


class WorkState(Protocol):
    """Work as its observer sees it.

    Attributes:
        total: how much there is to do, if that is known.
        through: how much of it is done.
        retries: what was told of requests that were sent again.
    """

    total: int | None
    through: int
    retries: Retries

    @property
    def begun(self) -> bool:
        """Whether something is done that the next run need not do again."""
        ...

    def apply(self, event: events.Event) -> None:
        """Take an event in."""
        ...

    def words(self) -> str:
        """Say how far it is."""
        ...

    def notice(self, event: events.Event, *, now: float, verbose: int) -> str | None:
        """Return what to say of an event at once, if anything."""
        ...


S = TypeVar("S", bound=WorkState)
S_co = TypeVar("S_co", bound=WorkState, covariant=True)


class WorkProgress(AbstractContextManager["WorkProgress[S_co]"], Protocol[S_co]):
    """Shows work while it is entered."""

    @property
    def state(self) -> S_co:
        """What was seen so far."""
        ...

    def observe(self, event: events.Event) -> None:
        """Take an event in."""
        ...

    def __enter__(self) -> Self:
        """Begin to show."""
        ...


def work_progress(stream: TextIO, state: S, *, verbose: int) -> WorkProgress[S]:
    """Return a bar where one can be drawn, lines otherwise."""
    if can_draw(stream, verbose=verbose):
        live = import_module("crossmount.cli.progress.work_bar")  # rich takes a tenth of a second to load
        return cast("WorkProgress[S]", live.WorkBar(stream, state, verbose=verbose))
    return WorkLines(stream, state, verbose=verbose)


class WorkLines(Generic[S]):
    """Observes work and writes lines."""

    def __init__(
        self,
        stream: TextIO,
        state: S,
        *,
        verbose: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.state = state
        self._stream = stream
        self._verbose = verbose
        self._clock = clock
        self._said = clock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        """End, and say of retries what was only counted."""
        for words in self.state.retries.rest():
            self._say(words)

    def observe(self, event: events.Event) -> None:
        """Take an event in and write what it is worth."""
        now = self._clock()
        self.state.apply(event)
        if words := self.state.notice(event, now=now, verbose=self._verbose):
            self._say(words)
        if now - self._said >= SAID_EVERY:
            self._said = now
            self._say(self.state.words())

    def _say(self, words: str) -> None:
        self._stream.write(f"{text.one_line(words)}\n")
        self._stream.flush()
