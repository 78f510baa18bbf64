"""Many writers of one index: threads, processes, forks."""

import os
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from crossmount.index import Keys, Sighting
from crossmount.index import blocking as blocking_index
from crossmount.index.link import BlockingLink
from support.index_kit import layer, repo
from support.servers import Server

KEYS = Keys("many")
DEST = repo("team/dest")
WRITERS, LAYERS, BOUND = 6, 20, 8

WRITER = f"""
import sys
sys.path[:0] = sys.argv[3:]
from support.index_kit import layer, repo
from crossmount.index import Keys, Sighting
from crossmount.index.blocking import RedisMountIndex
from test_index_processes import patient_link
with RedisMountIndex(patient_link(sys.argv[1]), keys=Keys("many"), bound={BOUND}) as index:
    print("ready", flush=True)
    sys.stdin.readline()
    for turn in range(10):
        name = repo(f"team/w{{sys.argv[2]}}-{{turn}}")
        index.record([Sighting(layer(n), name, size=n, must_mount=n == 0) for n in range({LAYERS})])
        assert name in index.locations(layer(1)) or len(index.locations(layer(1))) == {BOUND}
"""


def patient_link(url: str) -> BlockingLink:
    """Make a link as ours, with time for a machine on which all writers run at once."""
    pool = redis.BlockingConnectionPool.from_url(url, max_connections=16, timeout=20, socket_timeout=20)
    return BlockingLink(redis.Redis.from_pool(pool), "the test's server")


def test_processes_that_write_at_once(redis_server: Server) -> None:
    """Processes that record the same layers at once leave whole entries: full sets, never past the bound."""
    paths = [path for path in sys.path if path]
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, redis_server.unix_url, str(number), *paths],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(WRITERS)
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.communicate("go\n")
        assert writer.returncode == 0
    with (
        redis.Redis.from_url(redis_server.unix_url) as raw,
        blocking_index.RedisMountIndex(patient_link(redis_server.unix_url), keys=KEYS) as index,
    ):
        known = index.look_up([layer(n) for n in range(LAYERS)], DEST)
        for number in range(LAYERS):
            of_layer = known.of(layer(number))
            assert len(of_layer.sources) == BOUND
            assert of_layer.size == number
            assert of_layer.must_mount == (number == 0)
        assert raw.ttl(KEYS.flags(layer(0))) == -1
        assert raw.ttl(KEYS.flags(layer(1))) > 0


@pytest.mark.parametrize("store", ["memory", "redis"])
def test_threads_that_share_one_index(valkey: Server, store: str) -> None:
    """Threads that share one blocking index, more of them than connections, each see what was recorded by all."""
    index = (
        blocking_index.MemoryMountIndex()
        if store == "memory"
        else blocking_index.RedisMountIndex(patient_link(valkey.unix_url), keys=KEYS)
    )
    start = threading.Barrier(24)

    def write(number: int) -> None:
        start.wait()
        for turn in range(5):
            index.record([Sighting(layer(0), repo(f"team/w{number}-{turn}")), Sighting(layer(number), DEST)])
            assert index.look_up([layer(number)], DEST).of(layer(number)).in_dest

    with index, ThreadPoolExecutor(24) as pool:
        list(pool.map(write, range(24)))
        assert len(index.locations(layer(0))) == 24 * 5 + 1


def test_a_fork_shares_no_connection(valkey: Server) -> None:
    """A parent and its forks go on at once with an index used before the fork, each reading its own replies."""
    index = blocking_index.RedisMountIndex(patient_link(valkey.unix_url), keys=KEYS)
    with index:
        index.record([Sighting(layer(n), repo(f"team/n{n}")) for n in range(LAYERS)])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of a fork beside threads
            children = [_fork(index, number) for number in range(3)]
        assert _reads_its_own(index, 3)
        assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0, 0]
        assert _reads_its_own(index, 4)


def _fork(index: blocking_index.RedisMountIndex, number: int) -> int:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = 0 if _reads_its_own(index, number) else 2
        finally:
            os._exit(status)
    return child


def _reads_its_own(index: blocking_index.RedisMountIndex, number: int) -> bool:
    """Tell whether each of many answers is the one to its question."""
    for turn in range(100):
        asked = (number + turn) % LAYERS
        if index.sources(layer(asked), DEST) != (repo(f"team/n{asked}"),):
            return False
    return True
