"""`crossmount index status` and `crossmount index stop`."""

import time
from typing import Any

import click

from crossmount.cli import output, text
from crossmount.cli.access import index_url, opened_index
from crossmount.cli.command import Command, LazyCommand, LazyGroup, json_option
from crossmount.cli.index_state import ServerProbe, display_url, index_kind, probe_server
from crossmount.cli.running import run_async
from crossmount.cli.settings import Settings, settings_of
from crossmount.embedded import lifecycle as embedded
from crossmount.embedded.lifecycle import EmbeddedStatus

COMMANDS = {
    "status": LazyCommand(
        "crossmount.cli.commands.index", "status", "Say whether the index serves, and what it holds."
    ),
    "info": LazyCommand(
        "crossmount.cli.commands.index_info", "info", "Count what it holds, and how often it knew a layer."
    ),
    "prune": LazyCommand("crossmount.cli.commands.index_prune", "prune", "Forget what registries no longer hold."),
    "export": LazyCommand(
        "crossmount.cli.commands.index_export", "export", "Write all that it knows as JSON lines."
    ),
    "import": LazyCommand("crossmount.cli.commands.index_export", "import_", "Add what was exported."),
    "stop": LazyCommand(
        "crossmount.cli.commands.index", "stop", "End the embedded index; what it holds stays on disk."
    ),
}


@click.command(cls=LazyGroup, lazy=COMMANDS)
def index() -> None:
    """Look at the index, and after it; or stop the embedded one.

    The embedded index is a server of your own on this host, started by the first command that needs it,
    reached by a unix socket, and kept on disk: in $CROSSMOUNT_STATE_DIR/embedded if that variable is set, else
    where `crossmount index status` says. Commands that have the same folder share it.
    """


@click.command(cls=Command)
@json_option
@click.pass_context
def status(ctx: click.Context, as_json: bool) -> None:
    """Say whether the index serves, how far away it is, and what it holds.

    Asking does not start the embedded index. An index elsewhere that does not answer is a failure.
    """
    settings = settings_of(ctx)
    match index_kind(index_url(settings)):
        case "off":
            document, lines = {"index": "off"}, ["index: off"]
        case "memory":
            document, lines = {"index": "memory"}, ["index: in the memory of one process, gone with it"]
        case "embedded":
            document, lines = _embedded(embedded.status(), now=time.time())
        case "remote":
            document, lines = _remote(settings)
    if as_json:
        output.document(document)
    else:
        output.lines(lines)


@click.command(cls=Command)
@json_option
@click.pass_context
def stop(ctx: click.Context, as_json: bool) -> None:
    """End the embedded index. What it holds stays on disk, and the next command that needs it starts it again."""
    url = index_url(settings_of(ctx))
    if index_kind(url) != "embedded":
        raise click.UsageError(f"only the embedded index can be stopped from here, not {display_url(url)}", ctx)
    stopped = embedded.stop()
    if as_json:
        output.document({"index": "embedded", "stopped": stopped})
    else:
        output.lines(["embedded index: stopped" if stopped else "embedded index: it was not running"])


def _embedded(state: EmbeddedStatus, *, now: float) -> tuple[dict[str, Any], list[str]]:
    document = _as_document(state)
    if not state.running:
        return document, [
            "embedded index: not running, the next command that needs it starts it",
            f"  folder   {state.folder}",
        ]
    process = "process not known here" if state.pid is None else f"process {state.pid}"
    return document, [
        "embedded index: running",
        f"  server   {state.server}, {process}, up {text.duration(state.uptime)}",
        f"  folder   {state.folder}",
        f"  socket   {state.socket}",
        f"  holds    {text.count(state.layers, 'layer')} in all namespaces",
        f"  memory   {text.size(state.memory)} of at most {text.size(state.memory_bound)}",
        f"  on disk  {_saved(state, now)}",
    ]


def _as_document(state: EmbeddedStatus) -> dict[str, Any]:
    """Return the state for scripts, units in the names; what only a running server knows is null without one."""
    asked = state if state.running else None
    return {
        "index": "embedded",
        "running": state.running,
        "folder": str(state.folder),
        "socket": None if state.socket is None else str(state.socket),
        "pid": state.pid,
        "server": asked and asked.server,
        "uptime_seconds": asked and asked.uptime,
        "layers": asked and asked.layers,
        "keys": asked and asked.keys,
        "memory_bytes": asked and asked.memory,
        "memory_bound_bytes": asked and asked.memory_bound,
        "saved_at": state.saved_at,
        "saving": asked and asked.saving,
    }


def _saved(state: EmbeddedStatus, now: float) -> str:
    when = (
        "nothing yet" if state.saved_at is None else f"written {text.duration(max(now - state.saved_at, 0))} ago"
    )
    return when if state.saving else f"{when}, and the last write FAILED: is the disk full?"


def _remote(settings: Settings) -> tuple[dict[str, Any], list[str]]:
    url = display_url(index_url(settings))
    reached = run_async(_reach(settings))
    document = {
        "index": url,
        "running": True,
        "server": reached.server,
        "round_trip_ms": round(reached.round_trip * 1000, 3),
    }
    return document, [
        f"index: {url} answers",
        f"  server      {reached.server}",
        f"  round trip  {text.milliseconds(reached.round_trip)}",
    ]


async def _reach(settings: Settings) -> ServerProbe:
    async with opened_index(settings) as opened:
        reached = await probe_server(opened)
    if reached is None:
        raise AssertionError("a remote index is a server")
    return reached
