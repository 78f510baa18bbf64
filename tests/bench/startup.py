"""Start-up times: importing crossmount, compared with importing redis and httpx, and `crossmount --version`.

python tests/bench/startup.py
"""

import compileall
import statistics
import subprocess
import sys
import time
from pathlib import Path

import crossmount as package

RUNS = 15


def seconds(*command: str) -> float:
    """Return the seconds that a command takes."""
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    """Run the commands in turns, so that other load affects all alike; print medians and ratios."""
    compileall.compile_dir(Path(package.__file__).parent, quiet=1)  # as pip does
    crossmount = str(Path(sys.executable).with_name("crossmount"))
    commands = {
        "python -c pass": (sys.executable, "-c", "pass"),
        "import redis, httpx": (sys.executable, "-c", "import redis, redis.asyncio, httpx"),
        "import crossmount": (sys.executable, "-c", "import crossmount"),
        "import crossmount (all its names)": (sys.executable, "-c", "from crossmount import *"),
        "crossmount --version": (crossmount, "--version"),
    }
    taken: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(RUNS):
        for name, command in commands.items():
            taken[name].append(seconds(*command))
    median = {name: statistics.median(values) for name, values in taken.items()}
    nothing = median["python -c pass"]
    for name, value in median.items():
        print(f"{name:36} {value:6.3f} s")
    for name in ("import crossmount", "import crossmount (all its names)"):
        ratio = (median[name] - nothing) / (median["import redis, httpx"] - nothing)
        print(f"{name} ÷ importing redis and httpx: {ratio:.2f}")


if __name__ == "__main__":
    main()
