"""What a scan saw comes into the index before it counts as done, whatever goes wrong on the way."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence

import pytest

from crossmount.discovery.manifest_cache import LocalManifestCache
from crossmount.discovery.manifest_summary import ManifestSummary
from crossmount.discovery.scan_checkpoint import ScanCheckpoint
from crossmount.discovery.scan_recorder import BATCH, ScanRecorder
from crossmount.errors import IndexUnavailableError
from crossmount.index import MemoryMountIndex, Sighting
from crossmount.oci import Digest, Repository

APP = Repository("r.example", "team/app")
LAYER = Digest.of(b"layer")
MANIFEST = ManifestSummary(Digest.of(b"manifest"), ((LAYER, 5),))


class Gate(MemoryMountIndex):
    """An index that records only while it is open; meanwhile it waits, or fails if it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.open = asyncio.Event()
        self.asked = asyncio.Event()
        self.fails = False

    async def record(self, sightings: Iterable[Sighting]) -> None:
        """Record them, if it may be."""
        self.asked.set()
        if self.fails:
            raise IndexUnavailableError("gone for a moment")
        await self.open.wait()
        await super().record(sightings)


class Noted(ScanCheckpoint):
    """Progress that remembers what it was told, and whether the index knew the layer by then."""

    def __init__(self, index: MemoryMountIndex) -> None:
        super().__init__(None, APP.registry, [], run="0" * 16)
        self.index = index
        self.done: list[Repository] = []
        self.tags: list[str] = []

    async def save(self, done: Iterable[Repository], tags: Mapping[Repository, Iterable[str]]) -> None:
        """Take it down."""
        assert await self.index.locations(LAYER) == (APP,)
        self.done += done
        self.tags += [tag for some in tags.values() for tag in some]


@pytest.fixture
def index() -> Gate:
    """An index that is shut."""
    return Gate()


@pytest.fixture
def noted(index: Gate) -> Noted:
    """The progress of a scan into that index."""
    return Noted(index)


@pytest.fixture
def recorder(index: Gate, noted: Noted) -> ScanRecorder:
    """A recorder of it, whose clock stands."""
    return ScanRecorder(index, LocalManifestCache(), noted, clock=lambda: 0.0)


async def test_what_a_cancelled_flush_had_in_hand_is_recorded_by_the_next(
    index: Gate, noted: Noted, recorder: ScanRecorder
) -> None:
    """Else a scan that is ended would count as done what the index never heard of."""
    await recorder.saw(APP, MANIFEST)
    flushing = asyncio.create_task(recorder.flush())
    await index.asked.wait()
    flushing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await flushing
    await recorder.repository_done(APP)
    index.open.set()
    await recorder.flush()
    assert noted.done == [APP]


async def test_what_the_index_did_not_take_is_brought_again(
    index: Gate, noted: Noted, recorder: ScanRecorder
) -> None:
    """One flush fails, another was waiting for it: nothing of the first is lost."""
    await recorder.saw(APP, MANIFEST)
    index.fails = True
    with pytest.raises(IndexUnavailableError):
        await recorder.flush()
    index.fails = False
    index.open.set()
    await recorder.repository_done(APP)
    await recorder.flush()
    assert noted.done == [APP]


async def test_tags_count_among_what_waits(index: Gate, noted: Noted, recorder: ScanRecorder) -> None:
    """A repository whose many tags are of one manifest does not pile them up."""
    index.open.set()
    await recorder.saw(APP, MANIFEST)
    tags: Sequence[str] = [f"t{number}" for number in range(BATCH)]
    await recorder.tags_done(APP, tags)
    assert noted.tags == tags
