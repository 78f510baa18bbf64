"""`crossmount fleet` and `crossmount dashboard`: what pushers upload and wait for, in a terminal and on a page."""

import asyncio
import sys
import time
from typing import Any

import click

from crossmount import _formatting as text
from crossmount.cli import output
from crossmount.cli.access import opened_index
from crossmount.cli.command import Command, json_option
from crossmount.cli.event_loop import run_async
from crossmount.cli.failures import Interrupted
from crossmount.cli.options import LISTEN, REGISTRY
from crossmount.cli.output import start_service_log
from crossmount.cli.page import running_page
from crossmount.cli.settings import Settings, settings_of
from crossmount.errors import IndexUnavailableError
from crossmount.fleet.active_uploads import ActiveUpload, MeasuredUpload, UploadRates, active_uploads
from crossmount.fleet.lease import LeaseValue
from crossmount.index.protocol import backing_server

REFRESH_SECONDS = 1.0
WAITING_SHOWN = 5


@click.command(cls=Command)
@json_option
@click.option("--once", is_flag=True, help="Print once and exit, also on a terminal.")
@click.option("--watch", is_flag=True, help="Refresh every second until Ctrl-C: the default on a terminal.")
@click.pass_context
def fleet(ctx: click.Context, as_json: bool, once: bool, watch: bool) -> None:
    """Show the uploads in progress: the layer, the pusher, since when, how far, and the pushers that wait for it.

    On a terminal it refreshes every second until Ctrl-C; elsewhere it prints once.
    """
    settings = settings_of(ctx)
    if watch and (once or as_json or not sys.stdout.isatty()):
        raise click.UsageError("--watch draws on a terminal: omit --once and --json, and redirect no output")
    if as_json:
        output.document({"uploads": [_document(each) for each in run_async(_find_uploads(settings))]})
    elif once or not sys.stdout.isatty():
        output.lines(render_uploads(run_async(_find_uploads(settings)), now=time.time()))
    else:
        try:
            run_async(_follow(settings))
        except Interrupted:  # how the user ends it
            return


async def _find_uploads(settings: Settings) -> list[ActiveUpload]:
    async with opened_index(settings) as index:
        server = backing_server(index)
        return [] if server is None else await active_uploads(server)


async def _follow(settings: Settings) -> None:
    from rich.console import Console  # noqa: PLC0415 rich takes a while to load
    from rich.live import Live  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    console, rates = Console(highlight=False), UploadRates()
    async with opened_index(settings) as index:
        server = backing_server(index)
        with Live(console=console, screen=True, auto_refresh=False) as live:
            while True:
                try:
                    found = [] if server is None else await active_uploads(server)
                    lines = render_uploads(found, now=time.time(), rates=rates)
                except IndexUnavailableError as error:  # the index may answer again in a moment
                    lines = [str(error)]
                shown = Text("\n".join(map(output.printable, fitted(lines, *console.size))), no_wrap=True)
                live.update(shown, refresh=True)
                await asyncio.sleep(REFRESH_SECONDS)


def render_uploads(found: list[ActiveUpload], *, now: float, rates: UploadRates | None = None) -> list[str]:
    """Return the lines that show the uploads in progress.

    Args:
        found: the uploads.
        now: epoch seconds.
        rates: compares with the last refresh; None measures from the start of each upload.
    """
    measured = (rates or UploadRates()).measure(found, now)
    waiting = sum(len(each.waiting) for each in found)
    lines = [f"{text.count(len(found), 'upload')} underway, {waiting} waiting"]
    for each, progress in zip(found, measured, strict=True):
        layer = f"{text.short(each.layer)}  {_size(each.holder):>8}"
        lines.append(f"{layer}  {_describe(each, each.holder, now)}{_expiry_warning(each)}")
        lines.extend(_progress(progress))
        lines.extend(f"    waits: {_describe(each, waiter, now)}" for waiter in each.waiting[:WAITING_SHOWN])
        if len(each.waiting) > WAITING_SHOWN:
            lines.append(f"    and {len(each.waiting) - WAITING_SHOWN} more wait")
    return lines


def fitted(lines: list[str], width: int, height: int) -> list[str]:
    """Cut lines to the size of a terminal. If some do not fit, the last line says how many."""
    room = max(height - 1, 1)  # the last line is the cursor's
    if len(lines) > room:
        left = len(lines) - (room - 1)
        lines = [*lines[: room - 1], f"and {text.count(left, 'more line')}"]
    return [line if len(line) <= width else line[: max(width - 1, 0)] + "…" for line in lines]


def _progress(upload: MeasuredUpload) -> list[str]:
    """Return the sent bytes, the rate and the time left, as far as they are known."""
    if upload.sent is None:
        return []
    words = [] if upload.share is None else [f"{100 * upload.share:.0f} %"]
    words.append(f"{text.size(upload.sent)} done")
    if upload.rate is not None:
        words.append(f"{text.size(round(upload.rate))}/s")
    if upload.seconds_left is not None:
        words.append(f"{text.duration(upload.seconds_left)} left")
    return [f"    {', '.join(words)}"]


def _size(value: LeaseValue) -> str:
    return text.size(value.size) if value.size else "?"


def _describe(found: ActiveUpload, value: LeaseValue, now: float) -> str:
    where = str(value.dest) if value.dest is not None else found.registry
    began = value.since if value.taken is None else value.taken
    since = f", for {text.duration(max(now - began, 0))}" if began else ""
    return f"{where} by {value.holder or 'unknown'}{since}"


def _expiry_warning(found: ActiveUpload) -> str:
    """Return a warning about a lease without an expiry, which crossmount never sets."""
    return " (its lease never expires: not set by crossmount)" if found.seconds_left is None else ""


def _document(found: ActiveUpload) -> dict[str, Any]:
    return {
        "layer": str(found.layer),
        "registry": found.registry,
        "lease_seconds": found.seconds_left,
        **_participant(found.holder),
        "size": found.holder.size,
        "sent": found.holder.sent,
        "publishes": found.holder.publishes,
        "waiting": [_participant(waiter) for waiter in found.waiting],
    }


def _participant(value: LeaseValue) -> dict[str, Any]:
    return {
        "holder": value.holder,
        "dest": None if value.dest is None else str(value.dest),
        "since": value.since if value.taken is None else value.taken,
    }


@click.command(cls=Command)
@click.option(
    "--listen",
    type=LISTEN,
    default="127.0.0.1:8080",
    show_default=True,
    metavar="HOST:PORT",
    envvar="CROSSMOUNT_DASHBOARD_LISTEN",
    show_envvar=True,
    help="The address to listen on; port 0 takes a free port.",
)
@click.option(
    "--public-url",
    metavar="URL",
    envvar="CROSSMOUNT_DASHBOARD_PUBLIC_URL",
    show_envvar=True,
    help="The URL that people use, if a front forwards to this server: https://host[:port][/path].",
)
@click.option(
    "--registry",
    "registries",
    type=REGISTRY,
    multiple=True,
    metavar="REGISTRY",
    help="Measure how long this registry takes to answer, without a login. Repeatable.",
)
@click.pass_context
def dashboard(
    ctx: click.Context, listen: tuple[str, int], public_url: str | None, registries: tuple[str, ...]
) -> None:
    """Show in a browser what the fleet saved, what it uploads now, and how the index and the registries are.

    The page shows one namespace. It asks nobody for a password: whoever reaches the address sees the names of all
    repositories in the index, so publish it behind a front that does. Prometheus reads the numbers at /metrics.
    """
    settings = settings_of(ctx)
    start_service_log(settings.verbose, access=False)
    asyncio.run(_serve(settings, listen, public_url, registries))


async def _serve(
    settings: Settings, listen: tuple[str, int], public_url: str | None, registries: tuple[str, ...]
) -> None:
    async with (
        opened_index(settings) as index,
        running_page(
            settings, index, listen, public_url=public_url, registries=registries, command="crossmount dashboard"
        ) as server,
    ):

        def announce() -> None:
            click.echo(f"crossmount dashboard: {public_url or server.url + '/'}")
            sys.stdout.flush()

        await server.run_until_signal(announce)
