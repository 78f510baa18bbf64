"""Progress as plain lines, for logs: one for each blob that ended, and one now and then for a large upload."""

import time
from collections.abc import Callable
from typing import Self, TextIO

from crossmount import events
from crossmount.cli import text
from crossmount.cli.progress.state import BlobState, PushState, outcome, waiting_for
from crossmount.oci import Repository

LARGE = 64 * 1000 * 1000
"""An upload of this many bytes says how far it is."""

SAID_EVERY = 10.0
"""Seconds between two such lines for one blob, at least."""


class Lines:
    """Observes a push and writes lines; `names_dest` is for a copy, whose blobs go to more than one place."""

    def __init__(
        self,
        stream: TextIO,
        *,
        verbose: int = 0,
        names_dest: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.state = PushState()
        self._names_dest = names_dest
        self._stream = stream
        self._verbose = verbose
        self._clock = clock
        self._said: dict[tuple[Repository | None, str], float] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        """End, and say of retries what was only counted."""
        for words in self.state.retries.rest():
            self._say(text.one_line(words))

    def observe(self, event: events.Event) -> None:
        """Take an event in and write what it is worth."""
        now = self._clock()
        blob = self.state.apply(event, now=now)
        if isinstance(event, events.BlobFinished) and blob is not None:
            self._say_of(blob, outcome(blob))
        elif isinstance(event, events.BlobWaiting) and blob is not None:
            self._say_of(blob, waiting_for(event))
        elif isinstance(event, events.BlobProgress) and blob is not None:
            self._say_how_far(blob, now)
        elif words := self.state.notice(event, now=now, verbose=self._verbose):
            self._say(text.one_line(words))

    def _say_how_far(self, blob: BlobState, now: float) -> None:
        key = blob.dest, blob.digest
        last = self._said.setdefault(key, now)
        if blob.size >= LARGE and now - last >= SAID_EVERY:
            self._said[key] = now
            self._say_of(blob, f"uploading, {100 * blob.there // blob.size} %")

    def _say_of(self, blob: BlobState, words: str) -> None:
        where = f"  ({blob.dest})" if self._names_dest and blob.dest is not None else ""
        self._say(f"{text.short(blob.digest)} {text.size(blob.size):>9}  {words}{where}")

    def _say(self, line: str) -> None:
        self._stream.write(f"{line}\n")
        self._stream.flush()
