"""The blocking index in threads, forks, a running event loop, and many processes."""

import asyncio
import gc
import inspect
import os
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fakeredis
import pytest

import redis
from crossmount._blocking import run_now
from crossmount.index import MemoryMountIndex as AsyncIndex
from crossmount.index import MountableLayers, MountIndex, Sighting, redis_index
from crossmount.index.blocking import (
    AwaitableIndex,
    DrivenIndex,
    MemoryMountIndex,
    RedisMountIndex,
    inline,
    open_index,
    threaded,
)
from support.index_kit import layer, repo
from support.links import blocking_link_to
from support.servers import Server
from support.waiting import PATIENCE

A, DEST = repo("team/a"), repo("team/dest")
ONE = layer(1)
HERE = str(Path(__file__).parent.parent)


@pytest.fixture
def index(valkey: Server) -> Iterator[DrivenIndex]:
    """Return a blocking index on a real server."""
    with open_index(valkey.unix_url, namespace="shared") as index:
        yield index


def test_a_thread_pool_shares_one_index(index: DrivenIndex) -> None:
    """More threads than connections use one object at once, and no source is lost."""
    numbers = range(300)
    with ThreadPoolExecutor(32) as pool:
        list(pool.map(lambda i: index.add_source(ONE, repo(f"team/r{i % 100}")), numbers))
        found = list(pool.map(lambda _: len(index.sources(ONE, DEST)), numbers))
    assert set(found) == {100}


def test_a_thread_pool_shares_one_index_in_memory() -> None:
    """Threads use one index in memory at once, and no source is lost."""
    index = MemoryMountIndex()
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda i: index.add_source(layer(i % 7), repo(f"team/r{i % 100}")), range(2000)))
        list(pool.map(lambda i: index.look_up([layer(i % 7)], DEST), range(200)))
    assert sum(len(index.sources(layer(i), DEST)) for i in range(7)) == 700


def test_a_fork_and_its_parent_use_one_object(valkey: Server) -> None:
    """After a fork, parent and child continue with the same object, each on connections of its own."""
    code = f"""
        import os, sys
        sys.path.insert(0, {HERE!r})
        from support.index_kit import layer, repo
        from crossmount.index.blocking import open_index

        with open_index({valkey.unix_url!r}, namespace="forked") as index:
            index.add_source(layer(0), repo("before"))
            child = os.fork()
            for i in range(100):
                mine = repo(f"{{'parent' if child else 'child'}}/{{i % 20}}")
                index.add_source(layer(0), mine)
                assert {{repo("before"), mine}} <= set(index.sources(layer(0), repo("x")))
            if child:
                assert os.waitpid(child, 0)[1] == 0
                assert len(index.locations(layer(0))) == 41
    """
    run_python(code)


def run_python(code: str) -> None:
    """Run code in a new interpreter, in which warnings are errors."""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_eight_processes_lose_nothing(valkey: Server, index: DrivenIndex) -> None:
    """Eight processes add to the same layers at once, and every source and the flag are in the index."""
    code = f"""
        import sys
        sys.path.insert(0, {HERE!r})
        from support.index_kit import layer, repo
        from crossmount.index import Sighting
        from crossmount.index.blocking import open_index

        me = sys.argv[1]
        with open_index({valkey.unix_url!r}, namespace="shared") as index:
            print("here", flush=True)
            input()
            for i in range(100):
                place = repo(f"p{{me}}/r{{i % 10}}")
                index.record(Sighting(layer(n), place, must_mount=me == "3") for n in range(4))
                index.add_source(layer(4), repo("team/same"))
    """
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code), str(i)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(8)
    ]
    for writer in writers:
        assert writer.stdout
        assert writer.stdout.readline() == "here\n"
    for writer in writers:
        assert writer.stdin
        writer.stdin.write("\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate(timeout=PATIENCE)
    assert [writer.returncode for writer in writers] == [0] * 8
    wanted = tuple(repo(f"p{me}/r{i}") for me in range(8) for i in range(10))
    knowledge = index.look_up([layer(n) for n in range(4)], DEST)
    assert all(knowledge.of(layer(n)).sources == wanted and knowledge.of(layer(n)).must_mount for n in range(4))
    assert index.sources(layer(4), DEST) == (repo("team/same"),)
    for n in range(4):
        index.clear_must_mount(layer(n))


async def test_a_running_event_loop_may_call_it(index: DrivenIndex) -> None:
    """The blocking index works inside a running event loop, and blocks it."""
    index.add_source(ONE, A)
    assert index.sources(ONE, DEST) == (A,)


async def test_threaded_leaves_the_event_loop_free() -> None:
    """`threaded` never runs a blocking index on the event loop's own thread."""
    seen: set[int] = set()

    class Watching(MemoryMountIndex):
        def must_mount(self, layer: object) -> bool:
            del layer
            seen.add(os.getpid())
            with pytest.raises(RuntimeError, match="no running event loop"):
                asyncio.get_running_loop()
            return True

    assert await threaded(Watching()).must_mount(ONE)
    assert seen


def test_an_index_with_four_methods_stays_one() -> None:
    """A user's blocking index with only the four methods is not a whole index, and can back an index in memory."""

    class Four:
        def __init__(self) -> None:
            below = MemoryMountIndex()
            self.add_source, self.is_mountable = below.add_source, below.is_mountable
            self.must_mount, self.sources = below.must_mount, below.sources

    four = Four()
    four.add_source(ONE, A)
    adapted = inline(four)
    assert isinstance(adapted, MountableLayers)
    assert not isinstance(adapted, MountIndex)
    assert isinstance(inline(MemoryMountIndex()), AwaitableIndex)
    assert run_now(adapted.sources(ONE, DEST)) == (A,)
    over = MemoryMountIndex(four)
    over.add_source(ONE, repo("team/b"))
    assert over.sources(ONE, DEST) == (A, repo("team/b"))
    assert over.is_mountable(ONE, DEST)


def test_run_now_refuses_coroutines_that_suspend() -> None:
    """A coroutine that needs an event loop raises an error at once, and its clean-up runs."""
    done = []

    async def waits() -> None:
        try:
            await asyncio.sleep(0)
        finally:
            done.append(True)

    with pytest.raises(RuntimeError, match="wanted to wait"):
        run_now(waits())
    assert done == [True]


def test_run_now_returns_results_and_raises_errors() -> None:
    """The result or the error of a coroutine is the caller's."""

    async def fails() -> None:
        raise KeyError(1)

    async def answers() -> int:
        return 3

    assert run_now(answers()) == 3
    with pytest.raises(KeyError):
        run_now(fails())


def test_methods_look_like_their_asynchronous_twins() -> None:
    """A blocking method has the name, the docstring and the parameters of its asynchronous twin."""
    assert DrivenIndex.look_up.__doc__ == redis_index.RedisMountIndex.look_up.__doc__
    assert MemoryMountIndex().look_up.__name__ == "look_up"
    assert str(inspect.signature(MemoryMountIndex().forget)) == str(inspect.signature(AsyncIndex().forget))


def test_closing_leaves_no_warning(valkey: Server) -> None:
    """An index that was used and closed causes no ResourceWarning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with open_index(valkey.unix_url) as index:
            index.record([Sighting(ONE, A)])
        index.close()
        del index
        gc.collect()


def test_a_closed_index_can_be_used_again(valkey: Server) -> None:
    """An index that was closed connects again when it is used again."""
    index = open_index(valkey.unix_url)
    for _ in range(2):
        index.add_source(ONE, A)
        index.close()


def test_fakeredis_works_below_the_blocking_index() -> None:
    """The blocking index works on fakeredis, scripts included."""
    with fakeredis.FakeRedis(server=fakeredis.FakeServer()) as client:
        index = RedisMountIndex(blocking_link_to(client))
        index.add_source(ONE, A, must_mount=True)
        assert index.must_mount(ONE)
        assert isinstance(client, redis.Redis)
