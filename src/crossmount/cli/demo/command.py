"""`crossmount demo`."""

import asyncio
import secrets
import tempfile
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from crossmount.cli import output, text
from crossmount.cli.access import index_url, opened_index
from crossmount.cli.command import Command, json_option
from crossmount.cli.demo.images import FIRST, IMAGES, OWN, SHARED, DemoImage, make_images
from crossmount.cli.demo.pushes import Pushed, Pushes
from crossmount.cli.demo.registry import Counted, demo_registry
from crossmount.cli.failures import Interrupted
from crossmount.cli.index_state import display_url, index_kind
from crossmount.cli.running import run_async
from crossmount.cli.settings import Settings, settings_of
from crossmount.oci import Repository
from crossmount.redis.pipeline import TIMEOUT_SECONDS

BAR_WIDTH = 24
COLUMNS = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How the demo went.

    Attributes:
        registry: which program served.
        received: bytes that reached it, counted in front of it, requests and all.
    """

    registry: str
    namespace: str
    received: int
    pushes: list[Pushed]

    @property
    def size(self) -> int:
        """Bytes of all images: what would have travelled if each push had sent its image whole."""
        return sum(pushed.size for pushed in self.pushes)

    @property
    def uploaded(self) -> int:
        """Bytes that the pushes say they uploaded."""
        return sum(pushed.uploaded for pushed in self.pushes)


@click.command(cls=Command)
@json_option
@click.pass_context
def demo(ctx: click.Context, as_json: bool) -> None:
    """Push eight images that share layers into eight repositories, from eight processes, and count the bytes.

    One image goes first, as a build of the day before; the other seven are pushed at once. The registry is the
    demo's own (docker-registry if it is installed) and goes away with its data, about 120 MB on disk meanwhile.
    The index is the embedded one, or the one that --index names; what the demo writes to it is in a namespace of
    its own and forgotten at the end.
    """
    settings = settings_of(ctx)
    if index_kind(index_url(settings)) in {"off", "memory"}:
        raise click.UsageError("the demo needs an index that processes can share: leave --index out", ctx)
    say: Callable[[str], None] = (lambda _: None) if as_json else (lambda line: output.lines([line]))
    try:
        outcome = run_async(_run(settings, say))
    except Interrupted as interrupted:
        raise interrupted.with_note("the demo's processes and files are gone") from None
    if as_json:
        output.document(_as_document(outcome))
    else:
        output.lines(_closing(outcome, embedded=index_kind(index_url(settings)) == "embedded"))


async def _run(settings: Settings, say: Callable[[str], None]) -> Outcome:
    namespace = f"demo-{secrets.token_hex(4)}"
    settings = replace(settings, namespace=namespace)
    done: list[Pushed] = []

    def told(pushed: Pushed) -> None:
        done.append(pushed)
        say(_row(pushed))
        if pushed.image == FIRST:
            say(f"Today's builds, {len(IMAGES) - 1} at once:")

    with tempfile.TemporaryDirectory(prefix="crossmount-demo-") as folder:
        layout = Path(folder, "images")
        images = await asyncio.to_thread(make_images, layout)
        async with demo_registry(Path(folder, "registry")) as registry, opened_index(settings) as index:
            await index.look_up([], Repository(registry.address, "demo"))  # if it does not serve, that is told now
            for line in _opening(images, registry, index_url(settings)):
                say(line)
            pushes = Pushes(
                layout=layout, address=registry.address, index=index_url(settings), namespace=namespace
            )
            try:
                await pushes.run(images, told)
            finally:
                for pushed in done:
                    for blob in pushed.blobs:
                        await index.forget(blob, pushed.repository)
        return Outcome(registry=registry.kind, namespace=namespace, received=registry.received, pushes=done)


def _opening(images: tuple[DemoImage, ...], registry: Counted, index: str) -> list[str]:
    shared = ", ".join(f"{name} {text.size(size)}" for name, size in SHARED.items())
    total = sum(image.size for image in images)
    return [
        f"{len(images)} images for {len(images)} repositories, {text.size(total)} in all. Layers they share:",
        f"{shared}. Each has {text.size(OWN)} of its own.",
        f"Registry: {registry.kind} at {registry.address}, the demo's own.",
        f"Index: {_name(index)}.",
        "",
        "Yesterday's build, nothing known of it:",
    ]


def _name(index: str) -> str:
    return "the embedded one" if index_kind(index) == "embedded" else display_url(index)


def _row(pushed: Pushed) -> str:
    sizes = f"{text.size(pushed.uploaded):>7} of {text.size(pushed.size)} uploaded"
    return f"  {pushed.image:<8} {_bar(pushed.uploaded, pushed.size)} {sizes}, {text.duration(pushed.seconds)}"


def _closing(outcome: Outcome, *, embedded: bool) -> list[str]:
    less = f", {outcome.size / outcome.uploaded:.1f} times less" if outcome.uploaded else ""
    lines = [
        "",
        f"without mounts  {_bar(outcome.size, outcome.size)} {text.size(outcome.size):>7} would have travelled",
        f"with crossmount {_bar(outcome.uploaded, outcome.size)} {text.size(outcome.uploaded):>7} travelled{less}",
        f"counted in front of the registry, requests and all: {text.size(outcome.received)}",
        "",
    ]
    lines += _index_trouble(outcome.pushes)
    lines.append(f"Every layer that today's builds share was in yesterday's: {FIRST} has them all.")
    lines.append("The registry and all files are gone, and the index has forgotten the demo.")
    if embedded:
        lines.append("The embedded index itself goes on, it is yours: crossmount index stop ends it.")
    return lines


def _index_trouble(pushes: list[Pushed]) -> list[str]:
    """Say why the numbers are not what they might be. The index served before the pushes began."""
    degraded = [pushed for pushed in pushes if pushed.index != "ok"]
    if not degraded:
        return []
    causes = {pushed.trouble: None for pushed in degraded if pushed.trouble}
    why = f": {', '.join(causes)}" if causes else ""
    words = (
        f"The index did not serve {text.count(len(degraded), 'push', 'pushes')} all the time{why}. "
        f"This machine may be too busy: the index had {text.duration(TIMEOUT_SECONDS)} to answer. Run it again."
    )
    return textwrap.wrap(words, COLUMNS, break_on_hyphens=False)


def _bar(part: int, whole: int) -> str:
    filled = max(round(BAR_WIDTH * part / whole), 1 if part else 0)
    return "#" * filled + "." * (BAR_WIDTH - filled)


def _as_document(outcome: Outcome) -> dict[str, Any]:
    return {
        "registry": outcome.registry,
        "namespace": outcome.namespace,
        "images": [
            {
                "reference": f"{pushed.repository}:1",
                "bytes": {"image": pushed.size, "mounted": pushed.mounted, "uploaded": pushed.uploaded},
                "index": pushed.index,
                "seconds": pushed.seconds,
            }
            for pushed in outcome.pushes
        ],
        "bytes": {"images": outcome.size, "uploaded": outcome.uploaded, "received": outcome.received},
    }
