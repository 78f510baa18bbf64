"""Files that are read again while the proxy runs: after SIGHUP, and when they have changed.

All files are read and checked before any of them takes effect. An invalid file is logged, and nothing changes: the
values that were read before stay in use.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Generic, TypeVar

from crossmount.errors import CrossmountError

T = TypeVar("T")
Apply = Callable[[], None]
Prepare = Callable[[], Apply]
"""Reads and checks files, and returns the function that makes them take effect. Raises a CrossmountError."""

WATCH_SECONDS = 5.0

_Signature = tuple[int, int, int] | None
_log = logging.getLogger(__name__)


class Live(Generic[T]):
    """A value that is read from files, and read again on a reload.

    Args:
        read: reads and checks the files.

    Attributes:
        value: the value that was read last.

    Raises:
        CrossmountError: what `read` raises at the start.
    """

    def __init__(self, read: Callable[[], T]) -> None:
        self._read = read
        self.value = read()

    def prepare(self) -> Apply:
        """Read the files again; the new value takes effect when the returned function is called."""
        fresh = self._read()

        def apply() -> None:
            self.value = fresh

        return apply


class Reloader:
    """Reads a proxy's files again.

    Args:
        files: the files; a symbolic link stands for its target.
        prepare: reads them.
    """

    def __init__(self, files: Iterable[Path | None], prepare: Iterable[Prepare]) -> None:
        self._files = tuple(file for file in files if file is not None)
        self._prepare = tuple(prepare)
        self._seen = self.signatures()

    def reload(self) -> bool:
        """Read all files and make them take effect; if one is invalid, log why and return False."""
        self._seen = self.signatures()
        try:
            ready = [prepare() for prepare in self._prepare]
        except CrossmountError as error:
            _log.error("the files were not reloaded, and what was read before stays in use: %s", error)
            return False
        for apply in ready:
            apply()
        _log.info("reloaded %s", ", ".join(map(str, self._files)) or "nothing: no option names a file")
        return True

    async def watch(self, seconds: float = WATCH_SECONDS) -> None:
        """Check every `seconds`; reload when a file has changed and was the same at the next check."""
        before = self._seen
        while True:
            await asyncio.sleep(seconds)
            now = self.signatures()
            if now == before != self._seen:  # it may still be being written
                self.reload()
            before = now

    def signatures(self) -> tuple[_Signature, ...]:
        """Return a value that changes when the file changes."""
        return tuple(map(_signature, self._files))


def _signature(file: Path) -> _Signature:
    with contextlib.suppress(OSError):
        found = file.stat()
        return found.st_ino, found.st_size, found.st_mtime_ns
    return None
