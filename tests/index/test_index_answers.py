"""Any answer of an index server becomes valid values or an error of ours."""

import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis._parsers import _HiredisParser, _RESP2Parser

from crossmount.errors import IndexFailedError, IndexRefusedError
from crossmount.fleet.active_uploads import active_uploads
from crossmount.fleet.lease_store import LeaseStore
from crossmount.fleet.waiting import Claim, IndexDown
from crossmount.index import LayerKnowledge, RedisMountIndex, RegistryTraits, Sighting
from crossmount.index import blocking as blocking_index
from crossmount.maintenance import index_info, prune
from crossmount.redis import connection
from crossmount.redis.link import Link
from crossmount.redis.replies import Command, WrongTypeError
from support.index_kit import layer, repo
from support.links import async_link, blocking_link
from support.waiters import Slots, make_waiter

ONE, TWO, DEST = layer(1), layer(2), repo("team/dest")

texts = st.sampled_from(
    [
        b"",
        b"size",
        b"must_mount",
        b"@",
        b"@r.example",
        b"@o.example",
        b"9" * 12,
        b"9" * 30,
        b"team/a",
        b"1",
        b"\xff",
    ]
) | st.binary(max_size=8)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | texts | st.text(max_size=4)
refusals = st.builds(IndexRefusedError, st.just("no")) | st.builds(WrongTypeError, st.just("no"))
replies = st.recursive(
    scalars | refusals,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(texts | st.integers(), inner, max_size=4) | st.sets(texts)
    ),
    max_leaves=12,
)


class AnsweringLink:
    """A link with scripted replies."""

    where = "nowhere"

    def __init__(self, replies: Sequence[Any]) -> None:
        self._replies = replies

    async def run(self, commands: Sequence[Command]) -> list[Any]:
        """Return the scripted replies."""
        return [self._replies[i % len(self._replies)] for i in range(len(commands))]

    async def servers(self) -> Sequence[Link]:
        """Return itself as the only server."""
        return [self]

    async def aclose(self) -> None:
        """Do nothing."""


@settings(deadline=None)
@given(st.lists(replies, min_size=1, max_size=5))
def test_any_reply_is_read_as_values(replies: list[Any]) -> None:
    """Replies of any shape are read as valid values, or refused as a whole."""
    index = blocking_index.RedisMountIndex(AnsweringLink(replies))  # never suspends either
    with suppress(IndexFailedError):
        knowledge = index.look_up([ONE, TWO], DEST)
        assert isinstance(knowledge.traits, RegistryTraits)
        for known in knowledge.layers.values():
            assert all(repo(str(source)) == source != DEST for source in known.sources)
            assert list(known.sources) == sorted(set(known.sources))
            assert known.size is None or 0 <= known.size < 2**63
            assert DEST.registry not in known.elsewhere
            assert type(known.must_mount) is type(known.in_dest) is bool
    with suppress(IndexFailedError):
        assert all(repo(str(found)) == found for found in index.locations(ONE))
    with suppress(IndexFailedError):
        assert type(index.must_mount(ONE)) is bool
    with suppress(IndexFailedError):
        index.record([Sighting(ONE, DEST)])


SHAPES = [
    b":5\r\n",
    b"+OK\r\n",
    b"$-1\r\n",
    b"*-1\r\n",
    b"$3\r\nabc\r\n",
    b"*1\r\n$1\r\na\r\n",
    b"*2\r\n$4\r\nsize\r\n*0\r\n",
    b"*2\r\n*1\r\n$1\r\na\r\n$1\r\nb\r\n",
    b"*1\r\n*1\r\n:7\r\n",
    b"*1\r\n$-1\r\n",
    b"*1\r\n-WRONGTYPE no\r\n",
    b"-MOVED\r\n",
    b"-MOVED x\r\n",
    b"-ASK 1 h:x\r\n",
    b"*2\r\n-MOVED x\r\n:1\r\n",
    b":abc\r\n",
    b":" + b"9" * 5000 + b"\r\n",
    b"$abc\r\n",
    b"$9223372036854775807\r\n",
    b"*abc\r\n",
    b"*4000000000\r\n",
    b"*1\r\n" * 5000,
    b"%1\r\n*0\r\n:1\r\n",
    b"HTTP/1.1 400 Bad Request\r\n\r\n",
]

READERS = {"redis-py": _RESP2Parser, "hiredis": _HiredisParser}


@pytest.fixture(params=READERS)
def reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make clients parse replies with one of redis-py's parsers."""
    monkeypatch.setitem(connection.OWN_SETTINGS, "parser_class", READERS[request.param])


@contextmanager
def server_that_says(answer: bytes) -> Iterator[str]:
    """Answer each command of a pipeline with the same bytes."""

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with client, suppress(OSError):
                while received := client.recv(65536):
                    client.sendall(answer * received.count(b"*"))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"redis://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize("answer", SHAPES)
async def test_any_shape_on_the_wire_async(answer: bytes) -> None:
    """An answer of a wrong shape means that nothing is known, or is an error of the index."""
    with server_that_says(answer) as url:
        async with RedisMountIndex(async_link(url)) as index:
            with suppress(IndexFailedError):
                assert isinstance((await index.look_up([ONE], DEST)).of(ONE), LayerKnowledge)
            with suppress(IndexFailedError):
                await index.locations(ONE)
            with suppress(IndexFailedError):
                await index.record([Sighting(ONE, DEST)])


@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize("answer", SHAPES)
def test_any_shape_on_the_wire_blocking(answer: bytes) -> None:
    """The blocking flavour handles answers of a wrong shape in the same way."""
    with server_that_says(answer) as url, blocking_index.RedisMountIndex(blocking_link(url)) as index:
        with suppress(IndexFailedError):
            assert isinstance(index.look_up([ONE], DEST).of(ONE), LayerKnowledge)
        with suppress(IndexFailedError):
            index.locations(ONE)
        with suppress(IndexFailedError):
            index.record([Sighting(ONE, DEST)])


STATE = b"$4\r\nname\r\n$4\r\nmain\r\n$5\r\nflags\r\n"


@pytest.mark.parametrize(
    "answer",
    [
        b"+OK\r\n",
        b":5\r\n",
        b"*-1\r\n",
        b"*1\r\n:5\r\n",
        b"*1\r\n*2\r\n$4\r\nname\r\n$4\r\nmain\r\n",
        b"*1\r\n*2\r\n*0\r\n:1\r\n",
        b"*1\r\n*4\r\n" + STATE + b":5\r\n",
        b"*1\r\n*4\r\n" + STATE + b"$6\r\nmaster\r\n",
        b"-MOVED x\r\n",
    ],
)
async def test_any_shape_from_a_sentinel(answer: bytes) -> None:
    """An answer of a wrong shape from a sentinel is an error of the index, in both flavours."""
    with server_that_says(answer) as place:
        url = f"{place.replace('redis://', 'redis+sentinel://')}/main"
        async with RedisMountIndex(async_link(url)) as index:
            with pytest.raises(IndexFailedError):
                await index.look_up([ONE], DEST)
        with blocking_index.RedisMountIndex(blocking_link(url)) as index, pytest.raises(IndexFailedError):
            index.look_up([ONE], DEST)


@pytest.mark.parametrize(
    "reply",
    [
        b":5\r\n",
        b"*1\r\n$1\r\n0\r\n",
        b"*2\r\n$3\r\nabc\r\n*0\r\n",
        b"*2\r\n$1\r\n0\r\n:5\r\n",
        b"*2\r\n$1\r\n0\r\n*2\r\n:5\r\n*0\r\n",
    ],
)
async def test_any_shape_of_an_answer_to_a_scan(reply: bytes) -> None:
    """An answer to SCAN or INFO of a wrong shape yields nothing, or is an error of the index."""
    with server_that_says(reply) as url:
        async with RedisMountIndex(async_link(url)) as index:
            with suppress(IndexFailedError):
                assert (await index_info(index)).layers == 0
            with suppress(IndexFailedError):
                await prune(index)
            with suppress(IndexFailedError):
                await active_uploads(index.server())


@pytest.mark.parametrize(
    "reply",
    [
        b"*2\r\n$8\r\nappeared\r\n:5\r\n",
        b"*2\r\n$8\r\nappeared\r\n*0\r\n",
        b"*2\r\n$8\r\nappeared\r\n-ERR no\r\n",
        b"*2\r\n$4\r\nbusy\r\n:5\r\n",
        b"*2\r\n$4\r\nbusy\r\n*0\r\n",
        b"*2\r\n$4\r\nbusy\r\n$-1\r\n",
        b":5\r\n",
    ],
)
async def test_any_shape_about_leases(reply: bytes) -> None:
    """An invalid answer about a lease counts as no answer."""
    with server_that_says(reply) as url:
        async with RedisMountIndex(async_link(url)) as index:
            leases = LeaseStore(index.server())
            found = await leases.claim([Claim(make_waiter("team/dest", Slots()), take=True)])
            assert found.answers == [IndexDown()]
            assert await leases.read(ONE, "r.example") is None
