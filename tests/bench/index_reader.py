"""A process that looks layers up, for `index_reads.py`: with an index, or with the same commands by bare redis-py.

python index_reader.py WHAT FLAVOUR URL, where WHAT is `index` or `bare` and FLAVOUR is `async` or `blocking`. For
each line `LAYERS AT_ONCE` on its standard input it writes how many seconds so many look-ups at once took, or `nan`
where one was refused. It uses only what `crossmount` exports, so that it also runs on earlier versions.
"""

import asyncio
import hashlib
import random
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import redis.asyncio

import crossmount
import crossmount.asyncio
import redis
from crossmount.index.decode import TRAITS

KNOWN = 1000
DEST = crossmount.Repository("registry.example.com", "team/project/new")
HOLDER = crossmount.Repository("registry.example.com", "team/project/app")
CONNECTIONS = 64
THREADS = 400
BOUND = 128

Command = tuple[str | int, ...]


def digest(number: int) -> crossmount.Digest:
    """Return one of many digests."""
    return crossmount.Digest("sha256:" + hashlib.sha256(b"%d" % number).hexdigest())


DIGESTS = [digest(number) for number in range(KNOWN)]


def picks(layers: int, at_once: int) -> list[list[crossmount.Digest]]:
    """Return the layers of so many look-ups."""
    return [random.sample(DIGESTS, layers) for _ in range(at_once)]


def commands(layers: Sequence[crossmount.Digest]) -> list[Command]:
    """Return the commands of one look-up."""
    traits = f"crossmount:default:registry:{DEST.registry}"
    wanted: list[Command] = [("HMGET", traits, *TRAITS), ("TTL", traits)]
    for layer in layers:
        wanted += [
            ("SRANDMEMBER", f"crossmount:default:{{{layer}}}:sources:{DEST.registry}", BOUND),
            ("HGETALL", f"crossmount:default:{{{layer}}}:flags"),
            ("HGET", f"crossmount:default:{{{layer}}}:must-mount", "since"),
        ]
    return wanted


def blocking(url: str, *, bare: bool) -> None:
    """Answer lines with threads."""
    pool = redis.BlockingConnectionPool.from_url(url, max_connections=CONNECTIONS, timeout=None)
    client = redis.Redis.from_pool(pool)
    index = crossmount.open_index(url)

    def ask_bare(layers: Sequence[crossmount.Digest]) -> object:
        with client.pipeline(transaction=False) as pipeline:
            for command in commands(layers):
                pipeline.execute_command(*command)  # type: ignore[no-untyped-call]  # redis-py's own gap
            return pipeline.execute()

    def ask_index(layers: Sequence[crossmount.Digest]) -> object:
        return index.look_up(layers, DEST)

    ask: Callable[[Sequence[crossmount.Digest]], object] = ask_bare if bare else ask_index
    with ThreadPoolExecutor(THREADS) as threads:
        for line in sys.stdin:
            asked = picks(*map(int, line.split()))
            started = time.perf_counter()
            try:
                if len(asked) == 1:
                    ask(asked[0])
                else:
                    list(threads.map(ask, asked))
            except crossmount.IndexFailedError:
                print("nan", flush=True)
            else:
                print(time.perf_counter() - started, flush=True)


async def asynchronous(url: str, *, bare: bool) -> None:
    """Answer lines with tasks."""
    pool = redis.asyncio.BlockingConnectionPool.from_url(url, max_connections=CONNECTIONS, timeout=None)
    client = redis.asyncio.Redis.from_pool(pool)

    async def ask_bare(layers: Sequence[crossmount.Digest]) -> object:
        async with client.pipeline(transaction=False) as pipeline:
            for command in commands(layers):
                pipeline.execute_command(*command)
            return await pipeline.execute()

    async with crossmount.asyncio.open_index(url) as index:

        async def ask_index(layers: Sequence[crossmount.Digest]) -> object:
            return await index.look_up(layers, DEST)

        ask: Callable[[Sequence[crossmount.Digest]], Awaitable[object]] = ask_bare if bare else ask_index
        for line in sys.stdin:  # nothing else runs in this loop meanwhile
            asked = picks(*map(int, line.split()))
            started = time.perf_counter()
            found = await asyncio.gather(*map(ask, asked), return_exceptions=True)
            took = time.perf_counter() - started
            print("nan" if any(isinstance(each, Exception) for each in found) else took, flush=True)
    await client.aclose()


if __name__ == "__main__":
    what, flavour, where = sys.argv[1:]
    if flavour == "async":
        asyncio.run(asynchronous(where, bare=what == "bare"))
    else:
        blocking(where, bare=what == "bare")
