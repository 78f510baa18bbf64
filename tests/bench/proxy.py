"""The speed of pushes and HEADs through the proxy, and straight to the registry, in one run.

    python tests/bench/proxy.py [SIZE_MIB]

Needs docker-registry and skopeo. Prints Markdown.
"""

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
from contextlib import contextmanager
from pathlib import Path

import httpx

sys.path.insert(0, str(Path(__file__).parents[1]))

from setting import forget_skopeo

from support.images import make_layers, make_layout
from support.registries import run_docker_registry

MIB = 1024 * 1024
ROUNDS = 3
HEADS = 400
LAYERS, LAYER_MIB = 10, 40
CLIENTS = 200


@contextmanager
def proxy(upstream: str, folder: Path, spool: str) -> Iterator[tuple[str, int]]:
    """Run `crossmount proxy`; yield its address and its process id."""
    line = [sys.executable, "-m", "crossmount", "proxy", "--upstream", upstream, "--listen", "127.0.0.1:0"]
    line += ["--index", "embedded:", "--namespace", f"bench-{os.getpid()}", "--spool", spool, "--no-access-log"]
    environment = {**os.environ, "XDG_STATE_HOME": str(folder / "state"), "XDG_RUNTIME_DIR": str(folder / "state")}
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["url"].partition("://")[2], process.pid
        process.terminate()
        process.wait(30)


def big_layout(folder: Path, size: int, seed: int) -> Path:
    """Write an image with one layer of about `size` bytes, without keeping it in memory.

    It is a gzip file of stored blocks: skopeo compresses a layer that is not compressed, and so asks for one digest
    and pushes another.
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


def skopeo(layout: Path, dest: str, folder: Path) -> float:
    """Push with an empty cache, and return the seconds."""
    forget_skopeo()
    with tempfile.TemporaryDirectory(dir=folder) as home:
        begun = time.perf_counter()
        subprocess.run(
            [
                *("skopeo", "--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"),
                *("--dest-compress=false", f"oci:{layout}:latest", f"docker://{dest}"),
            ],
            check=True,
            env={**os.environ, "HOME": home, "XDG_DATA_HOME": home},
        )
        return time.perf_counter() - begun


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


def best(measure: Callable[[int], float]) -> float:
    """Return the median of several rounds."""
    return statistics.median(measure(number) for number in range(ROUNDS))


def main() -> None:
    """Measure, and print the table."""
    size = int(sys.argv[1]) * MIB if len(sys.argv) > 1 else 1024 * MIB
    rows: list[tuple[str, str, str, str, str]] = []
    with tempfile.TemporaryDirectory(prefix="cm-bench-") as name:
        folder = Path(name)
        shared = make_layout(folder / "shared", make_layers(LAYERS, size=LAYER_MIB * MIB))
        big = big_layout(folder, size, 1)
        with (
            run_docker_registry(folder / "registry", auth="", relative=False, deletes=True) as registry,
            proxy(registry.url, folder, str(folder / "spool")) as (spooling, pid),
            proxy(registry.url, folder, "off") as (plain, plain_pid),
        ):
            times: dict[str, list[float]] = {"straight": [], "spool": [], "plain": []}
            for number in range(ROUNDS):  # in turns, so that the machine's load affects all alike
                for way, address in (("straight", registry.address), ("spool", spooling), ("plain", plain)):
                    wiped(folder)
                    times[way].append(skopeo(big, f"{address}/big/n{number}:v", folder))
            straight, spool, through = (statistics.median(times[way]) for way in ("straight", "spool", "plain"))
            label = f"a new layer of {size // MIB} MiB by skopeo"
            rows.append((f"{label}, with the spool", _s(straight), _s(spool), _x(spool, straight), "1.6 times"))
            rows.append((f"{label}, without", _s(straight), _s(through), _x(through, straight), "1.25 times"))
            wiped(folder)
            before_shared = registry.uploads()
            skopeo(shared.path, f"{spooling}/seed:v", folder)
            mounted = best(lambda n: skopeo(shared.path, f"{spooling}/mounted/n{n}:v", folder))
            uploads = registry.uploads() - before_shared
            direct = best(lambda n: skopeo(shared.path, f"{registry.address}/direct/n{n}:v", folder))
            rows.append(
                (
                    f"{LAYERS} layers of {LAYER_MIB} MiB, all mountable",
                    _s(direct),
                    _s(mounted),
                    _x(mounted, direct),
                    "0.5 times",
                )
            )
            digest = shared.layers[0].digest
            there = [f"/v2/seed/blobs/{digest}"] * HEADS
            base, hit = heads(registry.address, there), heads(spooling, there)
            rows.append(("HEAD of a blob that is there", _ms(base), _ms(hit), f"+{hit - base:.1f} ms", "+3 ms"))
            news = [f"/v2/heads/n{number}/blobs/{digest}" for number in range(HEADS)]
            mount = heads(spooling, news)
            rows.append(("HEAD answered by a mount", _ms(base), _ms(mount), f"+{mount - base:.1f} ms", "+3 ms"))
            before = rss(pid)
            statuses = asyncio.run(crowd(spooling, digest, range(1)))
            middle = rss(pid)
            more = asyncio.run(crowd(spooling, digest, range(1, 11)))
            statuses_text = ", ".join(f"{status}: {n + statuses.pop(status, 0)}" for status, n in more.items())
            rows.append((f"{CLIENTS} clients at once, 11 rounds of mounts", "", statuses_text, "", "no failure"))
            flat = f"{before:.0f}, {middle:.0f}, {rss(pid):.0f} MiB"
            rows.append(("memory at its height: before, after 1, after 11", "", flat, "", "flat"))
            rows.append(("memory at its height without the spool", "", f"{rss(plain_pid):.0f} MiB", "", ""))
            print(
                f"uploads of shared layers in all pushes through the proxy: {uploads - 0} (21 blobs pushed once)"
            )
    print("| what | straight | through the proxy | | promised |\n|---|---|---|---|---|")
    for row in rows:
        print("| " + " | ".join(row) + " |")


def _s(seconds: float) -> str:
    return f"{seconds:.2f} s"


def _ms(milliseconds: float) -> str:
    return f"{milliseconds:.1f} ms"


def _x(ours: float, theirs: float) -> str:
    return f"{ours / theirs:.2f} times"


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    main()
