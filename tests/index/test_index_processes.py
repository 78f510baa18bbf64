"""Many processes that write the same layers of one index."""

import subprocess
import sys

import redis
from crossmount.index import Keys
from crossmount.index import blocking as blocking_index
from crossmount.redis.link import BlockingLink
from support.index_kit import layer, repo
from support.links import blocking_link_to
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
        assert name in index.locations(layer(1)) or len(index.locations(layer(1))) == {BOUND - 1}
"""


def patient_link(url: str) -> BlockingLink:
    """Return a client with deadlines long enough for a machine on which all writers run at once."""
    pool = redis.BlockingConnectionPool.from_url(url, max_connections=16, timeout=20, socket_timeout=20)
    return blocking_link_to(redis.Redis.from_pool(pool))


def test_processes_that_write_at_once(redis_server: Server) -> None:
    """Concurrent records of the same layers leave complete entries: full sets, never above the bound."""
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
            assert len(of_layer.sources) == BOUND - 1  # one member is the size
            assert of_layer.size == number
            assert of_layer.must_mount == (number == 0)
        assert raw.ttl(KEYS.must_mount(layer(0))) == -1
        assert not raw.exists(KEYS.flags(layer(0)), KEYS.flags(layer(1)))  # a layer on one registry needs none
