"""A spooled upload and the task that follows it to the registry go in step, and neither can hold up the other."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from crossmount.proxy.uploads import spool_file
from crossmount.proxy.uploads.spool import SpoolFolder
from crossmount.proxy.uploads.spool_file import SpoolFile
from support.waiting import until

PIECE = 256 * 1024
DATA = os.urandom(9 * 1024 * 1024 + 17)
PIECES = [DATA[at : at + PIECE] for at in range(0, len(DATA), PIECE)]


@asynccontextmanager
async def spooled(folder: Path) -> AsyncIterator[SpoolFile]:
    """Yield an empty spool file."""
    spool = SpoolFolder(folder, limit=64 * 1024 * 1024).open("owner")
    try:
        yield spool
    finally:
        await spool.aclose()


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Record the sizes of reads from disk."""
    sizes: list[int] = []
    pread = os.pread

    def counted(file: int, size: int, offset: int) -> bytes:
        sizes.append(size)
        return pread(file, size, offset)

    monkeypatch.setattr(os, "pread", counted)
    return sizes


async def append_all(spool: SpoolFile, ended: asyncio.Event) -> None:
    """Append everything, as fast as that is accepted."""
    for piece in PIECES:
        await spool.append(piece)
    await spool.flush()
    ended.set()
    spool.wake()


async def followed(spool: SpoolFile, ended: asyncio.Event, *, gate: asyncio.Event | None = None) -> bytes:
    """Follow a file to its end; after the first bytes wait for an event."""
    received = bytearray()
    async for data in spool.follow(lambda: spool.size if ended.is_set() else None):
        received += data
        if gate is not None:
            await gate.wait()
        await asyncio.sleep(0)
    return bytes(received)


async def test_a_follower_reads_from_memory(
    tmp_path: Path, reads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A follower gets all bytes while they arrive, and none of them from disk, however fast they arrive."""
    monkeypatch.setattr(spool_file, "FOLLOW_SECONDS", 60.0)
    async with spooled(tmp_path) as spool:
        ended = asyncio.Event()
        follower = asyncio.create_task(followed(spool, ended))
        await asyncio.sleep(0)
        await append_all(spool, ended)
        assert await follower == DATA
        assert sum(reads) <= 2 * 1024 * 1024  # the last batches, which nothing is appended to


async def test_a_follower_that_stops_holds_up_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes are appended although the follower takes none, and it gets them from disk when it goes on."""
    monkeypatch.setattr(spool_file, "FOLLOW_SECONDS", 0.01)
    async with spooled(tmp_path) as spool:
        ended = asyncio.Event()
        follower = asyncio.create_task(followed(spool, ended, gate=ended))
        await asyncio.sleep(0)
        await append_all(spool, ended)
        assert await follower == DATA


async def test_a_follower_that_has_failed_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the end of a follower nothing waits for it."""
    monkeypatch.setattr(spool_file, "FOLLOW_SECONDS", 3600.0)
    async with spooled(tmp_path) as spool:
        never, ended = asyncio.Event(), asyncio.Event()
        follower = asyncio.create_task(followed(spool, ended, gate=never))
        await asyncio.sleep(0)
        appending = asyncio.create_task(append_all(spool, ended))
        await until(lambda: spool._followed == 0 and spool._written > 0)
        follower.cancel()
        spool.unfollow()
        await appending
        assert spool.size == len(DATA)
        await asyncio.gather(follower, return_exceptions=True)
