"""The demo's eight pushes, each a `crossmount push` in a process of its own."""

import asyncio
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from crossmount.cli.demo.images import FIRST, DemoImage
from crossmount.cli.demo.processes import child
from crossmount.cli.progress.transfer import INDEX_WARNING
from crossmount.cli.text import one_line
from crossmount.oci import Digest, Repository

_LOCAL = "127.0.0.1,localhost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushed:
    """One image that was pushed.

    Attributes:
        size: the bytes of its blobs.
        uploaded: the bytes of those that were uploaded.
        blobs: its blobs' digests.
        trouble: why the index did not serve, if it did not.
    """

    image: str
    repository: Repository
    size: int
    uploaded: int
    mounted: int
    index: str
    seconds: float
    blobs: tuple[Digest, ...]
    trouble: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushes:
    """How the demo's images are pushed.

    Attributes:
        layout: the folder that holds them.
        address: the registry.
        index: the index's URL.
        namespace: the demo's own part of it.
    """

    layout: Path
    address: str
    index: str
    namespace: str

    async def run(self, images: tuple[DemoImage, ...], told: Callable[[Pushed], None]) -> list[Pushed]:
        """Push the first image, then all the others at once; `told` is called as each is done.

        Raises:
            click.ClickException: a push failed.
        """

        async def one(image: DemoImage) -> Pushed:
            pushed = await self._push(image)
            told(pushed)
            return pushed

        first = next(image for image in images if image.name == FIRST)
        done = [await one(first)]
        tasks = []
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(image)) for image in images if image is not first]
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return done + [task.result() for task in tasks]

    async def _push(self, image: DemoImage) -> Pushed:
        repository = Repository(self.address, f"demo/{image.name}")
        async with child(self._command(image, repository), env=self._environment()) as process:
            answer, complaint = await process.communicate()
        if process.returncode != 0:
            words = one_line(complaint.decode(errors="replace")).removeprefix("crossmount: ")
            raise click.ClickException(f"pushing {repository}: {words or f'it ended with {process.returncode}'}")
        return _read(image, repository, json.loads(answer), complaint.decode(errors="replace"))

    def _command(self, image: DemoImage, repository: Repository) -> list[str]:
        return [
            *(
                sys.executable,
                "-P",
                "-m",
                "crossmount",
                "push",
                f"oci:{self.layout}:{image.name}",
                f"{repository}:1",
            ),
            *("--json", "--plain-http", "--index", self.index, "--namespace", self.namespace),
        ]

    def _environment(self) -> dict[str, str]:
        """Return our environment, without what would lead the demo's requests elsewhere."""
        ours = {name: value for name, value in os.environ.items() if name not in {"NO_PROXY", "no_proxy"}}
        around = os.environ.get("NO_PROXY") or os.environ.get("no_proxy")
        return {**ours, "NO_PROXY": f"{around},{_LOCAL}" if around else _LOCAL}


def _trouble(line: str) -> str:
    """Return the cause from a push's warning that the index does not serve."""
    return one_line(line.removeprefix(INDEX_WARNING)) if line.startswith(INDEX_WARNING) else ""


def _read(image: DemoImage, repository: Repository, report: dict[str, Any], said: str) -> Pushed:
    sizes = report["bytes"]
    return Pushed(
        image=image.name,
        repository=repository,
        size=image.size,
        uploaded=sizes["uploaded"],
        mounted=sizes["mounted"],
        index=report["index"],
        seconds=report["seconds"],
        blobs=tuple(Digest(blob["digest"]) for blob in report["blobs"]),
        trouble=next((words for words in map(_trouble, said.splitlines()) if words), ""),
    )
