"""The speed of pushes and HEADs through the proxy, and straight to the registry, in one run.

    PATH=/tmp/peers:$PATH python tests/bench/proxy.py [--only large,far,near,crowd] [--mib 1024]

Needs docker-registry and skopeo; crane, regctl and oras are measured too if they are on the PATH
(`tests/bench/make_peers.py`). Prints Markdown. All ways are measured in turns; medians and ratios of one run.
"""

import argparse
import asyncio
import gzip
import hashlib
import http.client
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx

sys.path.insert(0, str(Path(__file__).parents[1]))

from peers import PUSHES
from setting import forget_skopeo, machine, run

from support.images import MadeImage, make_layers, make_layout
from support.link import link
from support.registries import DockerRegistry, run_docker_registry

MIB = 1024 * 1024
ROUNDS = 3
HEADS, HEAD_ROUNDS = 400, 9
LAYERS, LAYER_MIB = 10, 40
FAR_LAYERS, FAR_SECONDS = 20, 0.05
CLIENTS = 200
SKOPEOS = 64
TOOLS = [name for name in ("skopeo", "crane", "regctl", "oras") if shutil.which(name)]


@contextmanager
def proxy(upstream: str, folder: Path, spool: str) -> Iterator[tuple[str, int]]:
    """Run `crossmount proxy`; yield its address and its process id."""
    line = [sys.executable, "-m", "crossmount", "proxy", "--upstream", upstream, "--listen", "127.0.0.1:0"]
    line += ["--index", "embedded:", "--namespace", f"bench-{os.getpid()}", "--spool", spool, "--no-access-log"]
    environment = {**os.environ, "XDG_STATE_HOME": str(folder / "state"), "XDG_RUNTIME_DIR": str(folder / "state")}
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())["url"].partition("://")[2], process.pid
        finally:
            process.terminate()
            process.wait(30)


def big_layout(folder: Path, size: int, seed: int) -> Path:
    """Write an image with one layer of about `size` bytes, without keeping it in memory.

    It is a gzip file of stored blocks: skopeo compresses a layer that is not compressed, and so asks for one
    digest and pushes another.
    """
    layout = make_layout(folder / f"big-{seed}", make_layers(1)).path
    blobs = layout / "blobs" / "sha256"
    with gzip.GzipFile(blobs / "new", "wb", compresslevel=0, mtime=0) as file:
        for number in range(size // MIB):
            file.write(hashlib.shake_128(f"{seed} {number % 8}".encode()).digest(MIB - 8) + number.to_bytes(8))
    with (blobs / "new").open("rb") as whole:
        hasher = hashlib.file_digest(whole, "sha256")
    size = (blobs / "new").stat().st_size
    (blobs / "new").rename(blobs / hasher.hexdigest())
    index = json.loads((layout / "index.json").read_text())
    manifest = json.loads((blobs / index["manifests"][0]["digest"][7:]).read_text())
    manifest["layers"] = [
        {
            "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
            "digest": f"sha256:{hasher.hexdigest()}",
            "size": size,
        }
    ]
    content = json.dumps(manifest).encode()
    digest = hashlib.sha256(content).hexdigest()
    (blobs / digest).write_bytes(content)
    index["manifests"][0] |= {"digest": f"sha256:{digest}", "size": len(content)}
    (layout / "index.json").write_text(json.dumps(index))
    return layout


def push(tool: str, layout: Path, dest: str, folder: Path) -> float:
    """Push with an empty cache, and return the seconds."""
    forget_skopeo()
    with tempfile.TemporaryDirectory(dir=folder) as home:
        line = PUSHES[tool](layout, dest)
        return run(*line, env={"HOME": home, "XDG_DATA_HOME": home, "DOCKER_CONFIG": home}).seconds


def in_turns(ways: dict[str, str], measure: Callable[[str, str, int], float], rounds: int) -> dict[str, float]:
    """Measure all ways in turns, so that the machine's load affects all alike; return the median of each.

    Args:
        ways: the address of each way.
        measure: measures one round of a way, given its name, its address and the round's number.
        rounds: how many rounds.
    """
    times: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(rounds):
        for way, address in ways.items():
            times[way].append(measure(way, address, number))
    return {way: statistics.median(found) for way, found in times.items()}


def wiped(folder: Path) -> None:
    """Delete everything in a registry."""
    shutil.rmtree(folder / "registry" / "storage" / "docker", ignore_errors=True)


def rss(pid: int) -> float:
    """Return the current and the peak memory of a process, in MiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def heads(address: str, paths: list[str]) -> float:
    """Return the median milliseconds of a HEAD that answers 200."""
    connection = http.client.HTTPConnection(address)
    took = []
    for path in paths:
        begun = time.perf_counter()
        connection.request("HEAD", path)
        answer = connection.getresponse()
        answer.read()
        took.append(time.perf_counter() - begun)
        assert answer.status == 200, answer.status
    connection.close()
    return statistics.median(took) * 1000


async def crowd(address: str, digest: str, rounds: range) -> dict[int, int]:
    """Send HEADs of many clients at once, each for its own repository; return the count of each status."""
    limits = httpx.Limits(max_connections=CLIENTS)
    async with httpx.AsyncClient(base_url=f"http://{address}", limits=limits, timeout=60) as client:

        async def one(name: str) -> int:
            return (await client.head(f"/v2/crowd/{name}/blobs/{digest}")).status_code

        statuses: list[int] = []
        for turn in rounds:
            statuses += await asyncio.gather(*(one(f"r{turn}-{number}") for number in range(CLIENTS)))
        return {status: statuses.count(status) for status in sorted(set(statuses))}


def cpu(pid: int) -> float:
    """Return the seconds of CPU that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def throughput(address: str, path: str, count: int) -> float:
    """Return how many HEADs a second sixteen connections get answered."""
    limits = httpx.Limits(max_connections=16)
    async with httpx.AsyncClient(base_url=f"http://{address}", limits=limits, timeout=60) as client:

        async def some() -> None:
            for _ in range(count // 16):
                assert (await client.head(path)).status_code == 200

        begun = time.perf_counter()
        await asyncio.gather(*(some() for _ in range(16)))
        return count / (time.perf_counter() - begun)


@dataclass(slots=True)
class Bench:
    """A registry with proxies before it. Each part prints its rows."""

    folder: Path
    registry: DockerRegistry
    ways: dict[str, str]
    pid: int

    def large(self, size: int) -> None:
        """A new large layer."""
        image = big_layout(self.folder, size, 1)

        def measure(tool: str, way: str, address: str, number: int) -> float:
            wiped(self.folder)
            return push(tool, image, f"{address}/big-{len(way)}/{tool}{number}:v", self.folder)

        for tool in TOOLS:
            times = in_turns(self.ways, partial(measure, tool), ROUNDS)
            label = f"a new layer of {size // MIB} MiB by {tool}"
            for way, promised in (("with the spool", "1.15 times"), ("without", "1.25 times")):
                straight, ours = times["straight"], times[way]
                _row(f"{label}, {way}", _s(straight), _s(ours), _x(ours, straight), promised)
        wiped(self.folder)

    def far(self) -> None:
        """Mountable layers of a registry that is far away from the proxy and the clients."""
        image = make_layout(self.folder / "far", make_layers(FAR_LAYERS)).path
        with (
            link(self.registry.address, round_trip=FAR_SECONDS) as far,
            proxy(f"http://{far}", self.folder, str(self.folder / "far-spool")) as (near, _),
        ):
            for name in ("first", "second"):
                push("skopeo", image, f"{near}/far/{name}:v", self.folder)

            def measure(tool: str, way: str, address: str, number: int) -> float:
                return push(tool, image, f"{address}/far-{way}/{tool}{number}:v", self.folder)

            for tool in TOOLS:
                times = in_turns({"straight": far, "proxy": near}, partial(measure, tool), ROUNDS)
                straight, ours = times["straight"], times["proxy"]
                label = f"{FAR_LAYERS} mountable layers {FAR_SECONDS * 1000:.0f} ms away by {tool}"
                promised = "1.7 s" if tool == "skopeo" else "0.7 s" if tool == "crane" else ""
                _row(label, _s(straight), _s(ours), _x(ours, straight), promised)

    def near(self) -> MadeImage:
        """Mountable layers and HEADs on loopback; returns the image."""
        spooling, direct = self.ways["with the spool"], self.ways["straight"]
        shared = make_layout(self.folder / "shared", make_layers(LAYERS, size=LAYER_MIB * MIB))
        ways = {"straight": direct, "proxy": spooling}
        push("skopeo", shared.path, f"{spooling}/seed:v", self.folder)
        times = in_turns(
            ways, lambda way, at, n: push("skopeo", shared.path, f"{at}/near-{way}/n{n}:v", self.folder), ROUNDS
        )
        label = f"{LAYERS} layers of {LAYER_MIB} MiB, all mountable"
        straight, ours = times["straight"], times["proxy"]
        _row(label, _s(straight), _s(ours), _x(ours, straight), "0.5 times")
        digest = shared.layers[0].digest
        there = [f"/v2/seed/blobs/{digest}"] * HEADS
        os.sync()  # else what the pushes left is written to the disk beside the HEADs
        heads(spooling, there)
        times = in_turns(ways, lambda _way, at, _n: heads(at, there), HEAD_ROUNDS)
        base, hit = times["straight"], times["proxy"]
        _row("HEAD of a blob that is there", _ms(base), _ms(hit), f"+{hit - base:.1f} ms", "+1 ms")
        mount = heads(spooling, [f"/v2/heads/n{number}/blobs/{digest}" for number in range(HEADS)])
        _row("HEAD answered by a mount", _ms(base), _ms(mount), f"+{mount - base:.1f} ms", "+3 ms")
        return shared

    def crowd_of_skopeos(self) -> None:
        """Many skopeos at once: the proxy has the same cores as all of them."""
        image = make_layout(self.folder / "crowd", make_layers(LAYERS, size=MIB)).path
        push("skopeo", image, f"{self.ways['with the spool']}/crowd-seed:v", self.folder)

        def measure(way: str, address: str, number: int) -> float:
            forget_skopeo()
            begun = time.perf_counter()
            with ThreadPoolExecutor(SKOPEOS) as pool:
                list(
                    pool.map(
                        lambda n: push("skopeo", image, f"{address}/crowd-{way}{number}/n{n}:v", self.folder),
                        range(SKOPEOS),
                    )
                )
            return time.perf_counter() - begun

        ways = {"straight": self.ways["straight"], "proxy": self.ways["with the spool"]}
        times = in_turns(ways, measure, 2)
        straight, ours = times["straight"], times["proxy"]
        _row(f"{SKOPEOS} skopeos at once", _s(straight), _s(ours), _x(ours, straight), "1 times")

    def process(self, image: MadeImage) -> None:
        """What one process does with one core."""
        spooling, digest = self.ways["with the spool"], image.layers[0].digest
        used = cpu(self.pid)
        rate = asyncio.run(throughput(spooling, f"/v2/seed/blobs/{digest}", 16 * HEADS // 4))
        each = (cpu(self.pid) - used) / (16 * HEADS // 4)
        _row("HEADs a second, 16 at once", "", f"{rate:.0f}", f"{1 / each:.0f} a core", "")
        before = rss(self.pid)
        statuses = asyncio.run(crowd(spooling, digest, range(1)))
        middle = rss(self.pid)
        more = asyncio.run(crowd(spooling, digest, range(1, 11)))
        text = ", ".join(f"{status}: {n + statuses.pop(status, 0)}" for status, n in more.items())
        _row(f"{CLIENTS} clients at once, 11 rounds of mounts", "", text, "", "no failure")
        flat = f"{before:.0f}, {middle:.0f}, {rss(self.pid):.0f} MiB"
        _row("memory at its height: before, after 1, after 11", "", flat, "", "flat")

    def relay(self, size: int) -> None:
        """How many bytes one core passes on."""
        image, used = big_layout(self.folder, size, 2), cpu(self.pid)
        push("skopeo", image, f"{self.ways['with the spool']}/relay:v", self.folder)
        rate = size / MIB / (cpu(self.pid) - used)
        _row("MiB of a new layer a second of one core, spooled", "", f"{rate:.0f}", "", "")


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=1024, help="the size of the large layer")
    parser.add_argument("--only", default="large,far,near,crowd", help="parts to run")
    given = parser.parse_args()
    parts, size = given.only.split(","), given.mib * MIB
    _row("what", "straight", "through the proxy", "", "promised")
    _row(*["---"] * 5)
    with tempfile.TemporaryDirectory(prefix="cm-bench-") as name:
        folder = Path(name)
        with (
            run_docker_registry(folder / "registry", auth="", relative=False, deletes=True) as registry,
            proxy(registry.url, folder, str(folder / "spool")) as (spooling, pid),
            proxy(registry.url, folder, "off") as (plain, _),
        ):
            ways = {"straight": registry.address, "with the spool": spooling, "without": plain}
            bench = Bench(folder, registry, ways, pid)
            if "large" in parts:
                bench.large(size)
                bench.relay(min(size, 256 * MIB))
            if "far" in parts:
                bench.far()
            if "near" in parts:
                bench.process(bench.near())
            if "crowd" in parts:
                bench.crowd_of_skopeos()
    print(f"\n{machine()}; load average at the end {os.getloadavg()[0]:.0f}")


def _row(*cells: str) -> None:
    print("| " + " | ".join(cells) + " |", flush=True)


def _s(seconds: float) -> str:
    return f"{seconds:.2f} s"


def _ms(milliseconds: float) -> str:
    return f"{milliseconds:.1f} ms"


def _x(ours: float, theirs: float) -> str:
    return f"{ours / theirs:.2f} times"


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    main()
