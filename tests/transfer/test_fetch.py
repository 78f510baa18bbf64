"""A fetched blob is either complete and correct, or it never yields its last bytes."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossmount.errors import BlobUnavailableError, CrossmountError, RegistryUnreachableError
from crossmount.oci import Descriptor, Digest, Repository
from crossmount.transfer import fetch, origins
from crossmount.transfer.fetch import BlobOrigin, FetchedBlob, StartOverError
from crossmount.transfer.registries import FAR_AWAY

DATA = bytes(range(256)) * 8
BLOB = Descriptor("application/octet-stream", Digest.of(DATA), len(DATA))


@dataclass(eq=False)
class Scripted:
    """An origin that yields `data` in parts; each entry of `cuts` ends one read after that many bytes."""

    name: str
    data: bytes = DATA
    cuts: list[int] = field(default_factory=list)
    part: int = 100

    def __str__(self) -> str:
        return self.name

    @property
    def repository(self) -> Repository:
        """The repository of that name."""
        return Repository("r.example", self.name)

    async def read(self, descriptor: Descriptor, offset: int) -> AsyncGenerator[bytes]:
        """Yield the bytes from `offset` on, and fail where the script says."""
        assert descriptor is BLOB
        end = offset + self.cuts.pop(0) if self.cuts else None
        for at in range(offset, len(self.data), self.part):
            if end is not None and at >= end:
                raise RegistryUnreachableError(f"{self.name} was cut")
            yield self.data[at : at + self.part]

    async def failed(self, descriptor: Descriptor, error: CrossmountError) -> None:
        """Do nothing."""

    async def sent_wrong_bytes(self, descriptor: Descriptor) -> bool:
        """Return False: another read gives the same bytes."""
        del descriptor
        return False


def fetched(*sources: Scripted) -> FetchedBlob:
    """Return a blob with these origins."""

    async def find(descriptor: Descriptor) -> list[BlobOrigin]:
        del descriptor
        return list(sources)

    return FetchedBlob(BLOB, [find])


async def upload(blob: FetchedBlob, interruptions: list[int]) -> tuple[bytes | None, list[bytes]]:
    """Take the bytes as an upload does, resumed where it was interrupted.

    Returns:
        The bytes, None if they could not be fetched; and what was dropped on the way.
    """
    taken = bytearray()
    wasted: list[bytes] = []
    while True:
        stop = interruptions.pop(0) if interruptions else None
        started = len(taken)
        try:
            async with aclosing(blob.stream(len(taken))) as parts:
                async for part in parts:
                    taken += part
                    if stop is not None and len(taken) - started >= stop:
                        del taken[started + stop :]
                        break
                else:
                    return bytes(taken), wasted
        except StartOverError:
            wasted.append(bytes(taken))
            taken.clear()
        except BlobUnavailableError:
            return None, [*wasted, bytes(taken)]


def damaged(at: int) -> bytes:
    """Return the data with one byte changed."""
    return DATA[:at] + bytes([DATA[at] ^ 1]) + DATA[at + 1 :]


contents = st.one_of(
    st.just(DATA),
    st.integers(0, len(DATA) - 1).map(damaged),
    st.integers(0, len(DATA) - 1).map(lambda n: DATA[:n]),
    st.binary(min_size=1, max_size=300).map(lambda more: DATA + more),
    st.binary(min_size=1, max_size=300).map(lambda more: more + DATA),
)
cuts = st.lists(st.integers(0, 2000), max_size=3)


@given(
    scripts=st.lists(st.tuples(contents, cuts, st.sampled_from([100, 512, 1000, 5000])), min_size=1, max_size=4),
    interruptions=st.lists(st.integers(1, 2000), max_size=4),
    kept=st.sampled_from([1, 300, 10_000]),
)
def test_only_correct_bytes_complete(
    scripts: list[tuple[bytes, list[int], int]], interruptions: list[int], kept: int
) -> None:
    """For any behaviour of origins and uploads, a complete blob is correct, and a wrong one never completes."""
    sources = [Scripted(f"o{n}", data, list(cut), part) for n, (data, cut, part) in enumerate(scripts)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fetch, "BUFFER_BYTES", kept)
        whole, wasted = asyncio.run(upload(fetched(*sources), list(interruptions)))
    assert all(len(part) < len(DATA) for part in wasted)
    if whole is None:
        sound = [cut for data, cut, _ in scripts if data == DATA and not cut]
        assert not sound  # one that gives the bytes whole and right is found
    else:
        assert whole == DATA


async def test_a_dead_origin_is_resumed_at_its_offset() -> None:
    """After a failure the next origin is asked for the remaining bytes only."""
    first, second = Scripted("first", cuts=[700]), Scripted("second")
    blob = fetched(first, second)
    assert (await upload(blob, []))[0] == DATA
    assert blob.fetched == {first.repository: 700, second.repository: len(DATA) - 700}


async def test_the_error_names_each_origin_and_the_blob() -> None:
    """The error names the origins that failed, and why."""
    blob = fetched(Scripted("liar", damaged(5)), Scripted("dead", cuts=[0, 0]))
    with pytest.raises(StartOverError):
        await _read(blob)
    with pytest.raises(BlobUnavailableError) as raised:
        await _read(blob)
    said = str(raised.value)
    assert "liar sent bytes that do not have the digest" in said
    assert "dead was cut" in said
    assert said.count(BLOB.digest) >= 1


async def _read(blob: FetchedBlob) -> bytes:
    return b"".join([part async for part in blob.stream()])


async def test_an_empty_blob_is_nothing_to_fetch() -> None:
    """An empty blob is not requested from any origin."""
    blob = FetchedBlob(Descriptor("x", Digest.of(b""), 0), [])
    assert [part async for part in blob.stream()] == []


REPOSITORIES = {name: Repository(f"{name}.example", "app") for name in ("source", "near", "far", "gone", "other")}


@pytest.mark.parametrize(
    ("prefer", "distance", "expected"),
    [
        ((), {"source": 0.1, "near": 0.01, "far": 0.5}, ["near", "source", "far"]),
        ((), {"source": 0.010, "near": 0.009, "far": 0.011}, ["source", "far", "near"]),
        (("far",), {"source": 0.1, "near": 0.01, "far": 0.5}, ["far", "near", "source"]),
        ((), {"source": 0.1, "near": FAR_AWAY, "far": 0.05}, ["far", "source"]),
        ((), {"source": FAR_AWAY, "near": FAR_AWAY, "far": FAR_AWAY}, ["source"]),
        (("near",), {"source": 0.1, "near": FAR_AWAY, "far": FAR_AWAY}, ["source"]),
    ],
)
def test_the_nearest_is_first(prefer: tuple[str, ...], distance: dict[str, float], expected: list[str]) -> None:
    """Preferred registries are first, then near ones, then the source; of silent ones only the source is tried."""
    ranked = origins.rank(
        [REPOSITORIES["near"], REPOSITORIES["far"]],
        source=REPOSITORIES["source"],
        prefer=[f"{name}.example" for name in prefer],
        distance={f"{name}.example": seconds for name, seconds in distance.items()},
    )
    assert ranked == [REPOSITORIES[name] for name in expected]


@pytest.mark.parametrize("away", [0.0, 9.0], ids=["near", "far"])
def test_hints_are_bounded(away: float) -> None:
    """Only a few of many registries in the index are tried, and the source always, in its place."""
    many = [Repository(f"r{n}.example", f"app-{k}") for n in range(50) for k in range(5)]
    source = Repository("source.example", "app")
    distance = {"source.example": away, **{at.registry: 1.0 for at in many}}
    ranked = origins.rank(many, source=source, distance=distance)
    assert ranked.index(source) == (0 if not away else len(ranked) - 1)
    others = [at.registry for at in ranked if at != source]
    assert Counter(others) == {f"r{n}.example": origins.REPOSITORIES_MAX for n in (0, 1, 10, 11)}
