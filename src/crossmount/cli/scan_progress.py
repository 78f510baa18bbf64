"""How far a scan is: its numbers from its events, and lines for logs. The bar is in `scan_live`."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from importlib import import_module
from typing import Protocol, Self, TextIO, cast

from crossmount import events
from crossmount.cli import text
from crossmount.cli.progress import can_draw
from crossmount.cli.retries import Retries

SAID_EVERY = 10.0
"""Seconds between two lines that say how far it is."""


@dataclass(slots=True)
class ScanState:
    """A scan as its observer sees it.

    Attributes:
        total: how many repositories there will be, if that is known.
        through: repositories that are done with, however.
        scanned: repositories that were scanned to their end.
    """

    total: int | None = None
    through: int = 0
    scanned: int = 0
    tags: int = 0
    layers: int = 0
    retries: Retries = field(default_factory=Retries)

    def apply(self, event: events.Event) -> None:
        """Take an event in."""
        if isinstance(event, events.RepositoryScanned):
            self.through += 1
            self.scanned += event.outcome == "scanned"
            self.tags += event.tags
            self.layers += event.layers

    def words(self) -> str:
        """Say how far it is."""
        of = "" if self.total is None else f" of {self.total}"
        noun = "repository" if self.through == 1 and self.total is None else "repositories"
        return f"{self.through}{of} {noun}, {text.count(self.tags, 'tag')}, {text.count(self.layers, 'layer')}"

    def notice(self, event: events.Event, *, now: float, verbose: int) -> str | None:
        """Return what to say of an event at once: a repository that failed, retries; with `verbose` each one."""
        match event:
            case events.Retrying():
                return self.retries.notice(event, now=now, verbose=verbose)
            case events.RepositoryScanned(outcome="failed"):
                return f"crossmount: {event.repository}: failed: {event.cause}"
            case events.RepositoryScanned(outcome="scanned") if verbose:
                return (
                    f"{event.repository}: {text.count(event.tags, 'tag')}, "
                    f"{text.count(event.manifests, 'manifest')}, {text.count(event.layers, 'layer')}"
                )
            case events.RepositoryScanned() if verbose:
                return f"{event.repository}: {event.outcome}"
        return None


class ScanProgress(AbstractContextManager["ScanProgress"], Protocol):
    """Shows a scan while it is entered."""

    @property
    def state(self) -> ScanState:
        """What was seen so far."""
        ...

    def observe(self, event: events.Event) -> None:
        """Take an event in."""
        ...

    def __enter__(self) -> Self:
        """Begin to show."""
        ...


def scan_progress(stream: TextIO, *, total: int | None, verbose: int) -> ScanProgress:
    """Return a bar where one can be drawn, lines otherwise."""
    state = ScanState(total)
    if can_draw(stream, verbose=verbose):
        live = import_module("crossmount.cli.scan_live")  # rich takes a tenth of a second to load
        return cast("ScanProgress", live.ScanBar(stream, state, verbose=verbose))
    return ScanLines(stream, state, verbose=verbose)


class ScanLines:
    """Observes a scan and writes lines."""

    def __init__(
        self,
        stream: TextIO,
        state: ScanState,
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
