"""`crossmount demo`."""

import asyncio
import secrets
import tempfile
import textwrap
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import click

from crossmount import _formatting as text
from crossmount._dataclass import dataclass
from crossmount.cli import output
from crossmount.cli.access import display_url, index_kind, index_url, opened_index
from crossmount.cli.command import Command, json_option
from crossmount.cli.demo.pushes import FIRST, IMAGES, OWN, SHARED, DemoImage, Pushed, Pushes, make_images
from crossmount.cli.demo.registry import CountedRegistry, demo_registry
from crossmount.cli.event_loop import run_async
from crossmount.cli.failures import Interrupted
from crossmount.cli.page import shown
from crossmount.cli.settings import Settings, settings_of
from crossmount.index import MountIndex
from crossmount.index.keys import day
from crossmount.index.protocol import backing_server
from crossmount.oci import Repository
from crossmount.redis.execute import run_writes
from crossmount.redis.pipeline import TIMEOUT_SECONDS

BAR_WIDTH = 24
COLUMNS = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoResult:
    """The result of the demo.

    Attributes:
        registry: the program that was the registry.
        received: bytes that clients sent to it, headers included.
    """

    registry: str
    namespace: str
    received: int
    pushes: list[Pushed]

    @property
    def size(self) -> int:
        """Bytes of all images: the bytes that plain pushes would have sent."""
        return sum(pushed.size for pushed in self.pushes)

    @property
    def uploaded(self) -> int:
        """Bytes that the pushes report as uploaded."""
        return sum(pushed.uploaded for pushed in self.pushes)


@click.command(cls=Command)
@json_option
@click.option(
    "--page/--no-page",
    default=None,
    help="Show the numbers in a browser, until Ctrl-C or a minute without a look. Default: in a terminal.",
)
@click.pass_context
def demo(ctx: click.Context, as_json: bool, page: bool | None) -> None:
    """Push eight images that share layers to eight repositories, from eight processes, and count the bytes.

    One image is pushed first, as yesterday's build; then the other seven at once. The demo starts its own registry
    (docker-registry if it is installed), and removes it and its data, about 120 MB on disk, at the end. The index
    is the embedded one or the one that --index names; the demo uses its own namespace in it, and empties that at
    the end. In a terminal it shows its numbers on the page of `crossmount dashboard` before that.
    """
    settings = settings_of(ctx)
    if index_kind(index_url(settings)) in {"off", "memory"}:
        raise click.UsageError("the demo needs an index that processes can share: omit --index", ctx)
    say: Callable[[str], None] = (lambda _: None) if as_json else (lambda line: output.lines([line]))
    try:
        result = run_async(_run(settings, say, page=False if as_json else page))
    except Interrupted as interrupted:
        raise interrupted.with_note("the demo's processes and files are removed") from None
    if as_json:
        output.document(_as_document(result))
    else:
        output.lines(_farewell(embedded=index_kind(index_url(settings)) == "embedded"))


async def _run(settings: Settings, say: Callable[[str], None], *, page: bool | None) -> DemoResult:
    namespace = f"demo-{secrets.token_hex(4)}"
    settings = replace(settings, namespace=namespace)
    done: list[Pushed] = []

    def on_pushed(pushed: Pushed) -> None:
        done.append(pushed)
        say(_row(pushed))
        if pushed.image == FIRST:
            say(f"Today's builds, {len(IMAGES) - 1} at once:")

    with tempfile.TemporaryDirectory(prefix="crossmount-demo-") as folder:
        layout = Path(folder, "images")
        images = await asyncio.to_thread(make_images, layout)
        async with demo_registry(Path(folder, "registry")) as registry, opened_index(settings) as index:
            await index.look_up(
                [], Repository(registry.address, "demo")
            )  # an index that does not work fails the demo here
            for line in _opening(images, registry, index_url(settings)):
                say(line)
            pushes = Pushes(
                layout=layout, address=registry.address, index=index_url(settings), namespace=namespace
            )
            started = time.time()
            try:
                await pushes.run(images, on_pushed)
                result = DemoResult(
                    registry=registry.kind, namespace=namespace, received=registry.received, pushes=done
                )
                for line in _numbers(result):
                    say(line)
                async with shown(settings, index, wanted=page) as url:
                    for line in _invitation(url):
                        say(line)
            finally:
                await _empty(index, done, days={day(started), day(time.time())})
        return result


async def _empty(index: MountIndex, done: list[Pushed], *, days: set[str]) -> None:
    """Remove the demo's entries from the index: sources, accounts, counts, and what was seen of the registry."""
    for pushed in done:
        for blob in pushed.blobs:
            await index.forget(blob, pushed.repository)
    server = backing_server(index)
    if server is not None:
        keys, dates = server.keys, [date.fromisoformat(each) for each in days]
        names = [
            *(name for each in dates for name in (keys.savings(each), keys.savings_layers(each))),
            *keys.savings_pushes(),
            keys.registries(),
            *(keys.stats(each) for each in days),
            *(keys.traits(pushed.repository.registry) for pushed in done[:1]),
        ]
        await run_writes(server.link, [("DEL", name) for name in names])


def _opening(images: tuple[DemoImage, ...], registry: CountedRegistry, index: str) -> list[str]:
    shared = ", ".join(f"{name} {text.size(size)}" for name, size in SHARED.items())
    total = sum(image.size for image in images)
    return [
        f"{len(images)} images for {len(images)} repositories, {text.size(total)} in all. Layers they share:",
        f"{shared}. Each has {text.size(OWN)} of its own.",
        f"Registry: {registry.kind} at {registry.address}, the demo's own.",
        f"Index: {_name(index)}.",
        "",
        "Yesterday's build, with an empty index:",
    ]


def _name(index: str) -> str:
    return "the embedded one" if index_kind(index) == "embedded" else display_url(index)


def _row(pushed: Pushed) -> str:
    sizes = f"{text.size(pushed.uploaded):>7} of {text.size(pushed.size)} uploaded"
    return f"  {pushed.image:<8} {_bar(pushed.uploaded, pushed.size)} {sizes}, {text.duration(pushed.seconds)}"


def _numbers(result: DemoResult) -> list[str]:
    """Return the lines that compare what was uploaded with what would have been."""
    less = f", {result.size / result.uploaded:.1f} times less" if result.uploaded else ""
    lines = [
        "",
        f"without mounts  {_bar(result.size, result.size)} {text.size(result.size):>7} would have been uploaded",
        f"with crossmount {_bar(result.uploaded, result.size)} {text.size(result.uploaded):>7} uploaded{less}",
        f"received by the registry, headers included: {text.size(result.received)}",
        "",
    ]
    lines += _index_trouble(result.pushes)
    lines.append(f"Every layer that today's builds share was in yesterday's: {FIRST} has them all.")
    return lines


def _invitation(url: str | None) -> list[str]:
    """Return the lines about the page at `url`; None if it is not shown."""
    if url is None:
        return ["crossmount demo --page shows these numbers in a browser."]
    return [
        "",
        f"These numbers on a page: {url}",
        "Ctrl-C ends the demo; so does a minute in which nobody looks.",
        "",
    ]


def _farewell(*, embedded: bool) -> list[str]:
    """Return the lines that say what remains of the demo."""
    lines = ["The registry, all files and the demo's entries in the index are removed."]
    if embedded:
        lines.append("The embedded index keeps running: crossmount index stop stops it.")
    return lines


def _index_trouble(pushes: list[Pushed]) -> list[str]:
    """Return why more was uploaded than necessary: the index failed after the pushes began."""
    degraded = [pushed for pushed in pushes if pushed.index != "ok"]
    if not degraded:
        return []
    causes = {pushed.trouble: None for pushed in degraded if pushed.trouble}
    why = f": {', '.join(causes)}" if causes else ""
    words = (
        f"The index failed during {text.count(len(degraded), 'push', 'pushes')}{why}. "
        f"This machine may be too busy: the index has {text.duration(TIMEOUT_SECONDS)} to answer. Run it again."
    )
    return textwrap.wrap(words, COLUMNS, break_on_hyphens=False)


def _bar(part: int, whole: int) -> str:
    filled = max(round(BAR_WIDTH * part / whole), 1 if part else 0)
    return "#" * filled + "." * (BAR_WIDTH - filled)


def _as_document(result: DemoResult) -> dict[str, Any]:
    return {
        "registry": result.registry,
        "namespace": result.namespace,
        "images": [
            {
                "reference": f"{pushed.repository}:1",
                "bytes": {"image": pushed.size, "mounted": pushed.mounted, "uploaded": pushed.uploaded},
                "index": pushed.index,
                "seconds": pushed.seconds,
            }
            for pushed in result.pushes
        ],
        "bytes": {"images": result.size, "uploaded": result.uploaded, "received": result.received},
    }
