"""One new layer of 1 GiB: time and memory of `crossmount push` and of `skopeo copy`, in turns.

python tests/bench/upload_large.py [--runs 3]
"""

import argparse
import os
import shutil
import statistics
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from setting import Measured, machine, registry, run, table

from support.images import MadeImage, make_layout

GIB = 2**30


def make_image(folder: Path) -> MadeImage:
    """Make an image with one layer of 1 GiB that does not compress.

    Another process makes it, because the peak memory of a child begins with the memory of its parent at the fork.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_made, folder).result()


def _made(folder: Path) -> MadeImage:
    return make_layout(folder, [os.urandom(GIB)])


def main() -> None:
    """Push with both tools in turns, each time to an empty registry, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    runs = parser.parse_args().runs
    crossmount = Path(sys.executable).with_name("crossmount")
    taken: dict[str, list[Measured]] = {"crossmount push": [], "skopeo copy": []}
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        image = make_image(folder / "image")
        for number in range(runs):
            for tool, all_runs in taken.items():
                home = folder / f"home-{number}"
                with registry(folder / "registry") as real:
                    if tool == "skopeo copy":
                        command = ["skopeo", "--insecure-policy", "copy", "--preserve-digests"]
                        command += ["--dest-tls-verify=false", f"oci:{image.path}:latest"]
                        command += [f"docker://{real.address}/a/b:1"]
                    else:
                        command = [str(crossmount), "push", "--plain-http", "--index", "off", str(image.path)]
                        command += [f"{real.address}/a/b:1"]
                    all_runs.append(run(*command, env={"HOME": str(home), "XDG_DATA_HOME": str(home)}))
                shutil.rmtree(folder / "registry")
    seconds = {tool: statistics.median(one.seconds for one in all_runs) for tool, all_runs in taken.items()}
    peaks = {tool: max(one.peak for one in all_runs) for tool, all_runs in taken.items()}
    theirs = seconds["skopeo copy"]
    table(
        ("new layer of 1 GiB", "seconds", "÷ skopeo", "peak memory"),
        [
            (tool, f"{seconds[tool]:.2f}", f"{seconds[tool] / theirs:.2f}", f"{peaks[tool] / 2**20:.0f} MiB")
            for tool in taken
        ],
    )
    print(f"\n{machine()}; medians of {runs} runs")


if __name__ == "__main__":
    main()
