"""Findings of a scan are recorded in the index before they count as finished."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence

import pytest

from crossmount.discovery.manifest_summary import LocalManifestCache, ManifestSummary
from crossmount.discovery.scan_state import BATCH, ScanCheckpoint, ScanRecorder
from crossmount.errors import IndexUnavailableError
from crossmount.index import MemoryMountIndex, Sighting
from crossmount.oci import Digest, Repository

APP = Repository("r.example", "team/app")
LAYER = Digest.of(b"layer")
MANIFEST = ManifestSummary(Digest.of(b"manifest"), ((LAYER, 5),))


class Gate(MemoryMountIndex):
    """An index that records only while it is open, and otherwise waits, or fails if `fails` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.open = asyncio.Event()
        self.asked = asyncio.Event()
        self.fails = False

    async def record(self, sightings: Iterable[Sighting]) -> None:
        """Record them once it is open."""
        self.asked.set()
        if self.fails:
            raise IndexUnavailableError("gone for a moment")
        await self.open.wait()
        await super().record(sightings)


class Noted(ScanCheckpoint):
    """A checkpoint that records its calls, and asserts that the index has the layer."""

    def __init__(self, index: MemoryMountIndex) -> None:
        super().__init__(None, APP.registry, [], run="0" * 16)
        self.index = index
        self.done: list[Repository] = []
        self.tags: list[str] = []

    async def save(self, done: Iterable[Repository], tags: Mapping[Repository, Iterable[str]]) -> None:
        """Record the call."""
        assert await self.index.locations(LAYER) == (APP,)
        self.done += done
        self.tags += [tag for some in tags.values() for tag in some]


@pytest.fixture
def index() -> Gate:
    """A closed index."""
    return Gate()


@pytest.fixture
def noted(index: Gate) -> Noted:
    """The checkpoint of a scan into that index."""
    return Noted(index)


@pytest.fixture
def recorder(index: Gate, noted: Noted) -> ScanRecorder:
    """A recorder with a clock that does not move."""
    return ScanRecorder(index, LocalManifestCache(), noted, clock=lambda: 0.0)


async def test_a_cancelled_flush_is_repeated_by_the_next(
    index: Gate, noted: Noted, recorder: ScanRecorder
) -> None:
    """A cancelled flush's findings are recorded by the next one, before they count as finished."""
    await recorder.add_manifest(APP, MANIFEST)
    flushing = asyncio.create_task(recorder.flush())
    await index.asked.wait()
    flushing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await flushing
    await recorder.repository_done(APP)
    index.open.set()
    await recorder.flush()
    assert noted.done == [APP]


async def test_a_failed_flush_is_repeated_by_the_next(index: Gate, noted: Noted, recorder: ScanRecorder) -> None:
    """The findings of a failed flush are recorded by the next one."""
    await recorder.add_manifest(APP, MANIFEST)
    index.fails = True
    with pytest.raises(IndexUnavailableError):
        await recorder.flush()
    index.fails = False
    index.open.set()
    await recorder.repository_done(APP)
    await recorder.flush()
    assert noted.done == [APP]


async def test_pending_tags_are_limited(index: Gate, noted: Noted, recorder: ScanRecorder) -> None:
    """Pending tags are limited, also if they all have one manifest."""
    index.open.set()
    await recorder.add_manifest(APP, MANIFEST)
    tags: Sequence[str] = [f"t{number}" for number in range(BATCH)]
    await recorder.tags_done(APP, tags)
    assert noted.tags == tags
