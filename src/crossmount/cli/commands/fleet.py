"""`crossmount fleet`: the uploads in progress, and the pushers that wait for them."""

import asyncio
import shutil
import sys
import time
from typing import Any

import click

from crossmount.cli import output, text
from crossmount.cli.access import opened_index
from crossmount.cli.command import Command, json_option
from crossmount.cli.event_loop import run_async
from crossmount.cli.failures import Interrupted
from crossmount.cli.settings import Settings, settings_of
from crossmount.errors import IndexUnavailableError
from crossmount.fleet.active_uploads import ActiveUpload, active_uploads
from crossmount.fleet.lease import LeaseValue
from crossmount.index.protocol import backing_server

REFRESH_SECONDS = 1.0
WAITING_SHOWN = 5

_CLEAR = "\x1b[H\x1b[2J"


@click.command(cls=Command)
@json_option
@click.option("--once", is_flag=True, help="Print once and exit, also on a terminal.")
@click.pass_context
def fleet(ctx: click.Context, as_json: bool, once: bool) -> None:
    """Show the uploads in progress: the layer, the pusher, since when, and the pushers that wait for it.

    On a terminal it refreshes every second until Ctrl-C; elsewhere it prints once.
    """
    settings = settings_of(ctx)
    if as_json:
        output.document({"uploads": [_document(each) for each in run_async(_find_uploads(settings))]})
    elif once or not sys.stdout.isatty():
        output.lines(render_uploads(run_async(_find_uploads(settings)), now=time.time()))
    else:
        try:
            run_async(_follow(settings))
        except Interrupted:  # the way to leave
            return


async def _find_uploads(settings: Settings) -> list[ActiveUpload]:
    async with opened_index(settings) as index:
        server = backing_server(index)
        return [] if server is None else await active_uploads(server)


async def _follow(settings: Settings) -> None:
    async with opened_index(settings) as index:
        server = backing_server(index)
        while True:
            try:
                found = [] if server is None else await active_uploads(server)
                lines = render_uploads(found, now=time.time())
            except IndexUnavailableError as error:  # it may be back in a moment
                lines = [str(error)]
            click.echo(_CLEAR, nl=False)
            output.lines(fitted(lines, *shutil.get_terminal_size()))
            await asyncio.sleep(REFRESH_SECONDS)


def render_uploads(found: list[ActiveUpload], *, now: float) -> list[str]:
    """Return the lines that show the uploads in progress."""
    waiting = sum(len(each.waiting) for each in found)
    lines = [f"{text.count(len(found), 'upload')} underway, {waiting} waiting"]
    for each in found:
        layer = f"{text.short(each.layer)}  {_size(each.holder):>8}"
        lines.append(f"{layer}  {_describe(each, each.holder, now)}{_expiry_warning(each)}")
        lines.extend(f"    waits: {_describe(each, waiter, now)}" for waiter in each.waiting[:WAITING_SHOWN])
        if len(each.waiting) > WAITING_SHOWN:
            lines.append(f"    and {len(each.waiting) - WAITING_SHOWN} more wait")
    return lines


def fitted(lines: list[str], width: int, height: int) -> list[str]:
    """Cut lines to the size of a terminal. If some do not fit, the last line says how many."""
    room = max(height - 1, 1)  # the cursor's own line
    if len(lines) > room:
        left = len(lines) - (room - 1)
        lines = [*lines[: room - 1], f"and {text.count(left, 'more line')}"]
    return [line if len(line) <= width else line[: max(width - 1, 0)] + "…" for line in lines]


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
        "publishes": found.holder.publishes,
        "waiting": [_participant(waiter) for waiter in found.waiting],
    }


def _participant(value: LeaseValue) -> dict[str, Any]:
    return {
        "holder": value.holder,
        "dest": None if value.dest is None else str(value.dest),
        "since": value.since if value.taken is None else value.taken,
    }
