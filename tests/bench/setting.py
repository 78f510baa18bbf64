"""What the benches share: a real registry, and how a command is measured."""

import json
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from support.registries import DockerRegistry, run_docker_registry


@dataclass(frozen=True, slots=True)
class Measured:
    """One run of a command.

    Attributes:
        seconds: wall time.
        peak: its peak memory in bytes.
    """

    seconds: float
    peak: int


def _cpu_times() -> tuple[float, float]:
    """Return the time that the host of a virtual machine took away, and all time, since the machine started."""
    times = [float(text) for text in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return times[7], sum(times)


_BEGUN = _cpu_times()


def machine() -> str:
    """Say in one line what this ran on, and how much of it other machines on the same host took meanwhile."""
    taken, whole = (now - before for now, before in zip(_cpu_times(), _BEGUN, strict=True))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpus = [line.partition(": ")[2] for line in lines if "model name" in line] or [platform.machine()]
    share = f"the host took {taken / (whole or 1):.0%} of their time"
    return f"{os.cpu_count()} cores of {cpus[0]} ({share}), {memory:.0f} GiB, Python {platform.python_version()}"


_MEASURE = """
import json, os, subprocess, sys, time
started = time.perf_counter()
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
seconds = time.perf_counter() - started
print(json.dumps([os.waitstatus_to_exitcode(status), seconds, usage.ru_maxrss * 1024]))
process.returncode = 0
"""
"""Runs and measures a command. Its parent is small, since a child's peak memory begins with its parent's."""


def run(*command: str | Path, env: dict[str, str] | None = None) -> Measured:
    """Run a command to its end.

    Raises:
        RuntimeError: it failed; the message has its output.
    """
    done = subprocess.run(
        [sys.executable, "-S", "-E", "-c", _MEASURE, *map(str, command)],
        capture_output=True,
        env={**os.environ, **(env or {})},
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{command[0]}: {done.stderr.decode(errors='replace')[-800:]}")
    status, seconds, peak = json.loads(done.stdout)
    if status:
        raise RuntimeError(f"{command[0]} failed: {done.stderr.decode(errors='replace')[-800:]}")
    return Measured(seconds, peak)


SKOPEO_CACHE = Path("/var/lib/containers/cache/blob-info-cache-v1.boltdb")
"""Where skopeo stores its blob cache when root runs it, outside of HOME."""


def forget_skopeo() -> None:
    """Let skopeo begin with an empty cache, as on a fresh runner."""
    SKOPEO_CACHE.unlink(missing_ok=True)


@contextmanager
def registry(folder: Path) -> Iterator[DockerRegistry]:
    """Run the real docker-registry, open, with its storage in `folder`."""
    with run_docker_registry(folder, auth="", relative=True, deletes=True) as running:
        yield running


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table in Markdown."""
    widths = [max(len(str(cell)) for cell in column) for column in zip(header, *rows, strict=True)]
    for row in (header, ["-" * width for width in widths], *rows):
        print("| " + " | ".join(str(cell).ljust(width) for cell, width in zip(row, widths, strict=True)) + " |")


def peak_of_this_process() -> int:
    """Return the peak memory of this process in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
