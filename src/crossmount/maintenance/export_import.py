"""Export and import of an index, line by line, in constant memory."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing
from dataclasses import field
from typing import IO, Any

from crossmount import events
from crossmount._blocking import run_now
from crossmount._dataclass import dataclass
from crossmount.errors import InvalidInputError
from crossmount.index.blocking import DrivenIndex, MountableLayers
from crossmount.index.entries import entries_of
from crossmount.index.protocol import LayerEntry, Restorable, backing_server
from crossmount.index.redis_index import TTL_SECONDS
from crossmount.maintenance.export_format import (
    LINE_MAX,
    ExportHeader,
    InvalidLineError,
    layer_lines,
    parse_layer,
)

BATCH = 512
"""About how many sources one round trip imports."""

_LINES = 512
"""How many lines one write has."""


@dataclass(frozen=True, slots=True)
class MoveReport:
    """The counts of an export or an import.

    Attributes:
        layers: layers.
        sources: repositories that have them, summed over the layers.
        flagged: must-mount layers.
    """

    layers: int = 0
    sources: int = 0
    flagged: int = 0

    def plus(self, entry: LayerEntry) -> "MoveReport":
        """Return the counts with one more layer."""
        return MoveReport(self.layers + 1, self.sources + entry.source_count, self.flagged + entry.must_mount)


async def export_index(
    index: object,
    file: IO[bytes],
    *,
    observer: events.Observer = events.ignore,
) -> MoveReport:
    """Write all layers of an index as JSON lines, which `import_index` reads.

    The first line is a header. Each other line is a layer: `{"layer", "size", "must_mount", "sources":
    {registry: [names]}, "expires_in": {registry: seconds}}`. A layer that changes during the export may have two
    lines, which an import accepts.

    Args:
        index: made by `open_index`, or a wrapper of such an index.
        file: the file to write to; it stays open.
        observer: receives the counts so far.

    Raises:
        InvalidInputError: the index cannot be listed.
        IndexFailedError: the index did not answer, refused, or its user may not list keys.
        OSError: the file could not be written.
    """
    server, observer = backing_server(index), events.never_raising(observer)
    report = MoveReport()
    waiting = [ExportHeader(None if server is None else server.keys.namespace).text()]

    async def write() -> None:
        data = "".join(f"{line}\n" for line in waiting).encode()
        waiting.clear()
        await asyncio.to_thread(file.write, data)
        observer(events.LayersMoved(layers=report.layers, sources=report.sources))

    async with aclosing(entries_of(index)) as entries:
        async for entry in entries:
            waiting.extend(layer_lines(entry))
            report = report.plus(entry)
            if len(waiting) >= _LINES:
                await write()
    await write()
    await asyncio.to_thread(file.flush)
    return report


async def import_index(
    index: object, file: IO[bytes], *, observer: events.Observer = events.ignore, name: str | None = None
) -> MoveReport:
    """Add the layers that `export_index` wrote, from any namespace, to an index.

    Nothing in the index is removed: no time to live gets shorter and no must-mount flag is cleared. Sources get
    the time to live that they had left, at most that of a source that is recorded now.

    Args:
        index: made by `open_index`.
        file: the file to read to its end, in binary mode.
        observer: receives the counts so far.
        name: the file's name in messages; its own name by default.

    Raises:
        InvalidInputError: the index cannot import; or a line breaks the format, and the message says which line,
            and how many layers before it were imported.
        IndexFailedError: the index did not answer, or refused; layers imported until then stay.
    """
    return await _import(index, file, asyncio.to_thread, observer, name)


def import_now(
    index: MountableLayers,
    file: IO[bytes],
    *,
    observer: events.Observer = events.ignore,
    name: str | None = None,
) -> MoveReport:
    """Import like `import_index`, but into a blocking index, and reading in the calling thread.

    Without an event loop and a second thread, an interrupt ends a read that waits for a terminal or a pipe.
    """
    below = index.asynchronous if isinstance(index, DrivenIndex) else index
    return run_now(_import(below, file, _at_once, observer, name))


async def _at_once(function: Callable[[], "_Batch"]) -> "_Batch":
    return function()


async def _import(
    index: object,
    file: IO[bytes],
    run: Callable[[Callable[[], "_Batch"]], Awaitable["_Batch"]],
    observer: events.Observer,
    name: str | None,
) -> MoveReport:
    if not isinstance(index, Restorable):
        raise InvalidInputError("nothing can be imported into this index: give what open_index returns")
    observer = events.never_raising(observer)
    reader, report = _Reader(file, name or str(getattr(file, "name", "import"))), MoveReport()
    while True:
        batch = await run(reader.batch)
        if batch.entries:
            await index.restore(batch.entries)
            for entry in batch.entries:
                report = report.plus(entry)
            observer(events.LayersMoved(layers=report.layers, sources=report.sources))
        if batch.error is not None:
            raise InvalidInputError(f"{batch.error}: {_so_far(report)}")
        if batch.ended:
            return report


def _so_far(report: MoveReport) -> str:
    if not report.layers:
        return "nothing was imported"
    return f"{report.layers} layer{' before that was' if report.layers == 1 else 's before that were'} imported"


@dataclass(slots=True)
class _Batch:
    """Some layers, and whether the file, or a line that breaks the format, ended the batch."""

    entries: list[LayerEntry] = field(default_factory=list)
    ended: bool = False
    error: str | None = None


class _Reader:
    """Reads a file, at most one line of limited length at a time."""

    def __init__(self, file: IO[bytes], name: str) -> None:
        self._file = file
        self._name = name
        self._number = 0

    def batch(self) -> _Batch:
        """Read the next lines."""
        batch, sources = _Batch(), 0
        try:
            for entry in self._entries():
                batch.entries.append(entry)
                sources += max(entry.source_count, 1)
                if sources >= BATCH:
                    return batch
        except InvalidLineError as error:
            batch.error = f"{self._name}:{self._number}: {error}"
        batch.ended = True
        return batch

    def _entries(self) -> Iterator[LayerEntry]:
        if not self._number:
            ExportHeader.read(self._line())
        while line := self._line():
            yield parse_layer(line, life=TTL_SECONDS)

    def _line(self) -> bytes:
        line: Any = self._file.readline(LINE_MAX + 1)
        if not isinstance(line, bytes):
            raise InvalidInputError(f"{self._name}: open it in binary mode")
        self._number += 1
        if len(line) > LINE_MAX:
            raise InvalidLineError(f"longer than {LINE_MAX} bytes")
        return line
