"""The demo's eight pushes, each a `crossmount push` in its own process."""

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
from crossmount.cli.demo.registry import child
from crossmount.cli.progress.transfer import index_failure
from crossmount.cli.text import one_line
from crossmount.oci import Digest, Repository

_LOCAL = "127.0.0.1,localhost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushed:
    """One image that was pushed.

    Attributes:
        size: bytes of its blobs.
        uploaded: bytes of the blobs that were uploaded.
        blobs: the digests of its blobs.
        trouble: why the index failed, empty if it did not.
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
        layout: the folder with the images.
        address: of the registry.
        index: the index's URL.
        namespace: the demo's own namespace in the index.
    """

    layout: Path
    address: str
    index: str
    namespace: str

    async def run(self, images: tuple[DemoImage, ...], on_pushed: Callable[[Pushed], None]) -> list[Pushed]:
        """Push the first image, then all others at once; call `on_pushed` after each.

        Raises:
            click.ClickException: a push failed.
        """

        async def one(image: DemoImage) -> Pushed:
            pushed = await self._push(image)
            on_pushed(pushed)
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
        return _parse_report(image, repository, json.loads(answer), complaint.decode(errors="replace"))

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
        """Return our environment; requests to the demo's registry use no HTTP proxy."""
        ours = {name: value for name, value in os.environ.items() if name not in {"NO_PROXY", "no_proxy"}}
        around = os.environ.get("NO_PROXY") or os.environ.get("no_proxy")
        return {**ours, "NO_PROXY": f"{around},{_LOCAL}" if around else _LOCAL}


def _parse_report(image: DemoImage, repository: Repository, report: dict[str, Any], said: str) -> Pushed:
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
        trouble=next((words for words in map(index_failure, said.splitlines()) if words), ""),
    )
