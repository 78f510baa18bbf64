"""An exported index is imported elsewhere without a change."""

import asyncio
import io
import itertools
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import crossmount
import redis
from crossmount import events
from crossmount.asyncio import MoveReport, export_index, import_index
from crossmount.errors import IndexRefusedError, InvalidInputError
from crossmount.index import Keys, MemoryMountIndex, RedisMountIndex, Sighting, adapt, open_index
from crossmount.index.entries import entries_of
from crossmount.index.protocol import LayerEntry, RegistrySources
from crossmount.maintenance.export_format import LINE_MAX, layer_lines, parse_layer
from crossmount.oci import Digest, Repository
from support.index_kit import TTL, Clock, CountingLink, FourMethods, about, keys_that_stay, layer, repo
from support.links import async_link
from support.places import Place
from support.servers import Server

HEADER = b'{"crossmount": "index", "version": 1, "namespace": "default"}\n'
ONE = layer(1)
A = repo("team/a")
LINE = {"layer": ONE, "size": 3, "must_mount": False, "sources": {"r.example": ["team/a"]}}
NUMBERS = itertools.count()

registries = st.sampled_from(["r.example", "docker.io", "[::1]:5000", "o.example:5000"])
names = st.sets(st.sampled_from(["a/b", "team/app", "library/alpine", "x/y/z", f"n/{'a' * 250}"]), min_size=1)
lives = st.integers(6, TTL // 10).map(lambda tens: 10 * tens)
entries = st.builds(
    LayerEntry,
    layer=st.integers(0, 5).map(layer) | st.just(Digest.of(b"x", algorithm="sha512")),
    registries=st.dictionaries(
        registries,
        st.builds(
            RegistrySources,
            names.map(lambda found: tuple(sorted(found))),
            st.integers(6, TTL // 10).map(lambda tens: 10 * tens),
        ),
        max_size=3,
    ),
    size=st.none() | st.integers(0, 2**63 - 1),
    must_mount=st.booleans(),
).map(lambda entry: entry if entry.registries else replace(entry, size=None))


async def known(index: object) -> list[LayerEntry]:
    """Return all entries of an index, in order of layer, with lives rounded."""
    return about([entry async for entry in entries_of(index)])


def index_of(kind: str, url: str, clock: Clock) -> Any:
    """Make an empty index."""
    if kind == "memory":
        return MemoryMountIndex(ttl=TTL, clock=clock)
    return RedisMountIndex(async_link(url), keys=Keys(f"move-{next(NUMBERS)}"), ttl=TTL, clock=clock)


@pytest.mark.parametrize("source", ["memory", "server"])
@pytest.mark.parametrize("target", ["memory", "server"])
def test_an_imported_index_equals_the_exported_one(valkey: Server, source: str, target: str) -> None:
    """Export and import preserve layers, sizes, flags, sources and times to live, between all kinds of index."""

    async def check(entries: list[LayerEntry]) -> None:
        clock, file = Clock(), io.BytesIO()
        one, other = (index_of(kind, valkey.unix_url, clock) for kind in (source, target))
        await one.restore(entries)
        exported = await export_index(one, file)
        file.seek(0)
        assert await import_index(other, file) == exported
        assert await known(other) == await known(one)
        await one.aclose()
        await other.aclose()

    @settings(max_examples=40)
    @given(st.lists(entries, max_size=8, unique_by=lambda entry: entry.layer))
    def examples(entries: list[LayerEntry]) -> None:
        asyncio.run(check(entries))

    examples()


@given(entries)
def test_a_line_is_parsed_as_it_was_written(entry: LayerEntry) -> None:
    """A written line is parsed to the same entry."""
    (line,) = layer_lines(entry)
    assert parse_layer(line.encode(), life=TTL) == entry


def test_a_layer_with_many_sources_has_several_lines() -> None:
    """A layer with very many sources has several lines, each short enough to be read."""
    names = tuple(f"{'n' * 200}/{number:04}" for number in range(1000))
    entry = LayerEntry(
        layer=ONE, registries={f"r{number}.example": RegistrySources(names, TTL) for number in range(5)}, size=3
    )
    written = list(layer_lines(entry))
    assert len(written) == 3
    assert max(map(len, written)) < LINE_MAX
    read = [parse_layer(line.encode(), life=TTL) for line in written]
    assert {registry for each in read for registry in each.registries} == set(entry.registries)
    assert sum(each.source_count for each in read) == entry.source_count


async def test_every_topology_is_exported_and_imported(any_place: Place) -> None:
    """Export and import work on every topology with the users of the access list; all keys expire."""
    file = io.BytesIO()
    memory = MemoryMountIndex()
    await memory.record([Sighting(layer(number), A, size=number, must_mount=not number) for number in range(1500)])
    await export_index(memory, file)
    file.seek(0)
    seen: list[events.Event] = []
    async with open_index(any_place.operator_url) as index:
        report = await import_index(index, file, observer=seen.append)
        assert report == MoveReport(layers=1500, sources=1500, flagged=1)
        assert (await index.look_up([layer(7)], repo("team/b"))).of(layer(7)).size == 7
    assert seen[-1] == events.LayersMoved(layers=1500, sources=1500)
    again = io.BytesIO()
    async with open_index(any_place.operator_url) as index:
        assert await export_index(index, again) == report
    assert json.loads(again.getvalue().splitlines()[0])["namespace"] == "default"
    with any_place.client() as raw:
        assert keys_that_stay(raw) == []


async def test_an_import_takes_few_round_trips(valkey: Server) -> None:
    """One round trip imports hundreds of sources."""
    link = CountingLink(async_link(valkey.unix_url))
    index, memory, file = RedisMountIndex(link), MemoryMountIndex(), io.BytesIO()
    await memory.record([Sighting(layer(number), A) for number in range(2000)])
    await export_index(memory, file)
    file.seek(0)
    await import_index(index, file)
    assert len(link.runs) <= 2000 / 512 + 2
    await index.aclose()


async def test_an_import_merges_and_lifts_no_flag() -> None:
    """An import keeps existing sources and flags, and limits the time to live to that of a new source."""
    clock = Clock()
    index = MemoryMountIndex(ttl=TTL, clock=clock)
    await index.record([Sighting(ONE, repo("team/b"), size=3, must_mount=True)])
    await import_index(index, file_of({**LINE, "size": None, "expires_in": {"r.example": 10**9}}))
    assert await known(index) == [
        LayerEntry(
            layer=ONE,
            registries={"r.example": RegistrySources(("team/a", "team/b"), TTL)},
            size=3,
            must_mount=True,
        )
    ]


async def test_optional_fields_may_be_missing() -> None:
    """A line needs only sources or only a flag; registries may be spelled in any way."""
    index = MemoryMountIndex()
    report = await import_index(
        index,
        file_of(
            {"layer": ONE, "sources": {"R.Example:443": ["team/a"], "r.example": ["team/b"], "x.example": []}},
            {"layer": layer(2), "must_mount": True},
            {"layer": layer(3), "sources": {"docker.io": ["alpine"]}},
        ),
    )
    assert report == MoveReport(layers=3, sources=3, flagged=1)
    assert await index.locations(ONE) == (A, repo("team/b"))
    assert await index.must_mount(layer(2))
    assert await index.locations(layer(3)) == (Repository("docker.io", "library/alpine"),)


def file_of(*documents: object) -> io.BytesIO:
    """Return a file with a header and these lines."""
    return io.BytesIO(HEADER + b"".join(json.dumps(document).encode() + b"\n" for document in documents))


WRONG: list[tuple[object, str]] = [
    ([], "not a JSON object"),
    ({}, "layer: null: give a string"),
    ({**LINE, "layer": "sha256:0"}, "not a digest: 'sha256:0'"),
    ({**LINE, "layer": ["sha256"]}, "layer: a list: give a string"),
    ({**LINE, "more": 1}, "unknown field 'more'"),
    ({**LINE, "size": -1}, "size: -1: give a whole number from 0 to 9223372036854775807"),
    ({**LINE, "size": 2**63}, "size: 9223372036854775808: give a whole number"),
    ({**LINE, "size": 1.5}, "size: 1.5: give a whole number"),
    ({**LINE, "size": True}, "size: true: give a whole number"),
    ({**LINE, "size": "3"}, "size: '3': give a whole number"),
    ({**LINE, "must_mount": 1}, "must_mount: 1: give true or false"),
    ({**LINE, "must_mount": None}, "must_mount: null: give true or false"),
    ({**LINE, "sources": ["team/a"]}, "sources and expires_in: give an object"),
    ({**LINE, "sources": {"r.example": "team/a"}}, "sources: give a list of repositories"),
    ({**LINE, "sources": {"r.example": [{}]}}, "sources: an object: give a string"),
    ({**LINE, "sources": {"r.example": ["UPPER"]}}, "not a repository name: 'UPPER'"),
    ({**LINE, "sources": {"r.example": ["a\x1b[2J\n"]}}, "not a repository name"),
    ({**LINE, "sources": {"no registry": ["a"]}}, "not a registry: 'no registry'"),
    ({**LINE, "sources": {"r.example": ["a"] * 2049}}, "more than 2048 sources"),
    ({**LINE, "expires_in": 5}, "sources and expires_in: give an object"),
    ({**LINE, "expires_in": {"r.example": 0}}, "expires_in: 0: give a whole number from 1"),
    ({**LINE, "expires_in": {"r.example": "1"}}, "expires_in: '1': give a whole number from 1"),
    ({**LINE, "expires_in": {"other.example": 1}}, "expires_in: names a registry that sources does not name"),
]


@pytest.mark.parametrize(("document", "words"), WRONG)
async def test_an_invalid_line_is_reported_with_its_number(document: object, words: str) -> None:
    """The error names file, line and cause; lines before it are imported, later ones are not."""
    index = MemoryMountIndex()
    later = {**LINE, "layer": layer(9)}
    with pytest.raises(InvalidInputError) as raised:
        await import_index(index, file_of(LINE, document, later), name="saved.jsonl")
    assert str(raised.value).startswith(f"saved.jsonl:3: {words}")
    assert str(raised.value).endswith(": 1 layer before that was imported")
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 500
    assert await index.locations(ONE) == (A,)
    assert await index.locations(layer(9)) == ()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "f:1: not an exported index: its first line is not a header"),
        (b"\n" * 100, "f:1: not an exported index"),
        (b"\x00\xff\xfe" * 100, "f:1: not an exported index"),
        (json.dumps(LINE).encode(), "f:1: not an exported index"),
        (b'{"crossmount": "index", "version": 2}', "f:1: version 2: this crossmount reads version 1"),
        (b'{"crossmount": "index", "version": true}', "f:1: version true"),
        (b'{"crossmount": "index"}', "f:1: version null"),
        (HEADER + b"\n", "f:2: an empty line"),
        (HEADER + b"[" * 200_000, "f:2: not a JSON object"),
        (HEADER + b'{"a":' * 200_000, "f:2: not a JSON object"),
        (HEADER + b'{"layer": ' + b"9" * 10_000 + b"}", "f:2: not a JSON object"),
        (HEADER + b'{"layer": "\xff"}', "f:2: not a JSON object"),
        (HEADER + b'{"size": NaN, "layer": "sha256:0"}', "f:2: not a digest"),
    ],
)
async def test_another_file_is_refused(content: bytes, words: str) -> None:
    """A file that is not an export is refused, and nothing is imported."""
    with pytest.raises(InvalidInputError) as raised:
        await import_index(MemoryMountIndex(), io.BytesIO(content), name="f")
    assert str(raised.value).startswith(words)
    assert str(raised.value).endswith(": nothing was imported")


class Endless(io.RawIOBase):
    """An endless file that counts the bytes read from it."""

    def __init__(self, start: bytes, rest: bytes) -> None:
        self.start, self.rest, self.taken = start, rest, 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Return as many bytes as requested."""
        data = (self.start or self.rest * (len(buffer) // len(self.rest) + 1))[: len(buffer)]
        self.start = self.start[len(data) :]
        buffer[: len(data)] = data
        self.taken += len(data)
        return len(data)


@pytest.mark.parametrize(
    ("start", "rest", "words"),
    [
        (b"", b"\n", "f:1: not an exported index"),
        (HEADER, b"\n", "f:2: an empty line"),
        (HEADER, b" ", "f:2: longer than 1048576 bytes"),
        (b"", b"x", "f:1: longer than 1048576 bytes"),
    ],
)
async def test_an_endless_file_is_refused_early(start: bytes, rest: bytes, words: str) -> None:
    """An endless file is read no further than the longest valid line."""
    file = Endless(start, rest)
    with pytest.raises(InvalidInputError) as raised:
        await import_index(MemoryMountIndex(), io.BufferedReader(file), name="f")
    assert str(raised.value).startswith(words)
    assert file.taken < 2 * LINE_MAX


async def test_a_file_in_text_mode_is_refused() -> None:
    """A file in text mode is refused."""
    file: Any = io.StringIO("x")
    with pytest.raises(InvalidInputError, match="binary mode"):
        await import_index(MemoryMountIndex(), file)


async def test_an_index_that_cannot_import_is_refused() -> None:
    """An import into an index that cannot import raises an error."""
    with pytest.raises(InvalidInputError, match="nothing can be imported"):
        await import_index(adapt(FourMethods()), file_of(LINE))
    with pytest.raises(InvalidInputError, match="cannot be listed"):
        await export_index(adapt(FourMethods()), io.BytesIO())


async def test_an_index_that_refuses_ends_the_import(valkey: Server) -> None:
    """An index that refuses ends the import with its error."""
    with redis.Redis.from_url(valkey.unix_url) as raw:
        raw.set(Keys().flags(ONE), "x", ex=600)
    async with open_index(valkey.unix_url) as index:
        with pytest.raises(IndexRefusedError):
            await import_index(index, file_of(LINE))


def test_the_blocking_flavour_does_the_same(valkey: Server) -> None:
    """Export and import work without an event loop, from a server and from memory."""
    for url in (valkey.unix_url, "memory:"):
        file = io.BytesIO()
        with crossmount.open_index(url, namespace="one") as one, crossmount.open_index("memory:") as other:
            one.add_source(ONE, A)
            exported = crossmount.export_index(one, file)
            file.seek(0)
            assert crossmount.import_index(other, file) == exported == MoveReport(1, 1, 0)
            assert other.locations(ONE) == (A,)
    with pytest.raises(InvalidInputError, match="cannot be listed"), crossmount.open_index("memory:") as index:
        crossmount.export_index(crossmount.GuardedIndex(index), io.BytesIO())


async def test_foreign_values_do_not_spoil_an_export(valkey: Server) -> None:
    """A stored time to live beyond the limit is exported in a form that can be imported."""
    async with open_index(valkey.unix_url) as index:
        await index.add_source(ONE, A)
        with valkey.client() as raw:
            raw.hset(Keys().flags(ONE), "@r.example", 2**63 - 1)
        file = io.BytesIO()
        assert await export_index(index, file) == MoveReport(1, 1, 0)
        file.seek(0)
        assert await import_index(MemoryMountIndex(), file) == MoveReport(1, 1, 0)
