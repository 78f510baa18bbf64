"""Writing an index out, and taking one in: line by line, so that neither takes memory that grows with it."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import IO, Any

from crossmount import events
from crossmount._blocking import run_now
from crossmount.errors import InvalidInputError
from crossmount.index.backing_server import server_of
from crossmount.index.blocking import DrivenIndex, MountableLayers
from crossmount.index.entries import entries_of
from crossmount.index.entry import LayerEntry, Restorable
from crossmount.index.redis_index import TTL_SECONDS
from crossmount.maintenance import export_format as lines
from crossmount.maintenance.export_format import ExportHeader, InvalidLineError

BATCH = 512
"""About how many sources are taken in in one round trip."""

_LINES = 512
"""How many lines are written at once."""


@dataclass(frozen=True, slots=True)
class MoveReport:
    """What was written out or taken in.

    Attributes:
        layers: how many.
        sources: how many repositories in all they lie in.
        flagged: how many of them may only be mounted.
    """

    layers: int = 0
    sources: int = 0
    flagged: int = 0

    def plus(self, entry: LayerEntry) -> "MoveReport":
        """Return this with one layer more."""
        return MoveReport(self.layers + 1, self.sources + entry.source_count, self.flagged + entry.must_mount)


async def export_index(
    index: object,
    file: IO[bytes],
    *,
    observer: events.Observer = events.ignore,
    clock: Callable[[], float] = time.time,
) -> MoveReport:
    """Write all that an index knows of layers as JSON lines, which `import_index` reads.

    The first line is a header, then comes a line for each layer: `{"layer", "size", "must_mount", "sources":
    {registry: [names]}, "expires_in": {registry: seconds}}`. A layer that was changed meanwhile may come twice,
    which an import does not mind.

    Args:
        index: made by `open_index`, or laid over such a one.
        file: is written to, and stays open.
        observer: told how far it is.
        clock: epoch seconds.

    Raises:
        InvalidInputError: the index cannot be listed.
        IndexFailedError: the index does not serve, or does not allow to look at all keys.
        OSError: the file does not take it.
    """
    server = server_of(index)
    report = MoveReport()
    waiting = [ExportHeader(None if server is None else server.keys.namespace).text()]

    async def write() -> None:
        data = "".join(f"{line}\n" for line in waiting).encode()
        waiting.clear()
        await asyncio.to_thread(file.write, data)
        observer(events.LayersMoved(layers=report.layers, sources=report.sources))

    async with aclosing(entries_of(index, clock=clock)) as entries:
        async for entry in entries:
            waiting.extend(lines.written(entry))
            report = report.plus(entry)
            if len(waiting) >= _LINES:
                await write()
    await write()
    await asyncio.to_thread(file.flush)
    return report


async def import_index(
    index: object, file: IO[bytes], *, observer: events.Observer = events.ignore, name: str | None = None
) -> MoveReport:
    """Add what `export_index` wrote to an index, whatever namespace it was in.

    It is added to what is known: nothing is cut short and no flag is lifted. Sources live as long as they had left
    to live, at most as long as if they were recorded now.

    Args:
        index: made by `open_index`.
        file: is read to its end, in binary mode.
        observer: told how far it is.
        name: what to call the file in messages; its own name by default.

    Raises:
        InvalidInputError: the index takes no such entries; or a line breaks the format, and then the message says
            which, and how many layers before it were imported.
        IndexFailedError: the index does not serve; what was imported until then stays.
    """
    return await _import(index, file, asyncio.to_thread, observer, name)


def import_now(
    index: MountableLayers,
    file: IO[bytes],
    *,
    observer: events.Observer = events.ignore,
    name: str | None = None,
) -> MoveReport:
    """Do as `import_index` does, blocking: into a blocking index, and reading in the calling thread.

    Without a loop, and so without another thread: an interrupt ends a read that waits, of a terminal or a pipe.
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
    """Some layers, and what ended them: the file's end, or a line that is none."""

    entries: list[LayerEntry] = field(default_factory=list)
    ended: bool = False
    error: str | None = None


class _Reader:
    """Reads a file; never more of it at once than a line may have."""

    def __init__(self, file: IO[bytes], name: str) -> None:
        self._file = file
        self._name = name
        self._number = 0

    def batch(self) -> _Batch:
        """Read some lines."""
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
            yield lines.read(line, life=TTL_SECONDS)

    def _line(self) -> bytes:
        line: Any = self._file.readline(lines.LINE_MAX + 1)
        if not isinstance(line, bytes):
            raise InvalidInputError(f"{self._name}: open it in binary mode")
        self._number += 1
        if len(line) > lines.LINE_MAX:
            raise InvalidLineError(f"longer than {lines.LINE_MAX} bytes")
        return line
