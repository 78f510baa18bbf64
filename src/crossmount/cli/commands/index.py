"""`crossmount index`: its group, and `status`, `info` and `stop`."""

import time
from typing import Any

import click

from crossmount import _formatting as text
from crossmount.cli import output
from crossmount.cli.access import (
    DEFAULT_NAMESPACE,
    ServerProbe,
    display_url,
    index_kind,
    index_url,
    opened_index,
    probe_server,
)
from crossmount.cli.command import Command, LazyGroup, json_option
from crossmount.cli.entry import LazyCommand
from crossmount.cli.event_loop import run_async
from crossmount.cli.options import Between
from crossmount.cli.settings import Settings, settings_of
from crossmount.embedded import lifecycle
from crossmount.embedded import status as embedded_status
from crossmount.embedded.status import EmbeddedStatus
from crossmount.maintenance import IndexInfo, index_info

COMMANDS = {
    "status": LazyCommand(
        "crossmount.cli.commands.index", "status", "Show whether the index works, and what it contains."
    ),
    "info": LazyCommand(
        "crossmount.cli.commands.index", "info", "Count layers and sources, and show the hit rate."
    ),
    "registry": LazyCommand(
        "crossmount.cli.commands.index_registries", "registry", "Show what the index believes of a registry."
    ),
    "same-registry": LazyCommand(
        "crossmount.cli.commands.index_registries",
        "same_registry",
        "Say for all users that two names are one registry.",
    ),
    "prune": LazyCommand(
        "crossmount.cli.commands.index_content", "prune", "Remove sources that registries no longer have."
    ),
    "export": LazyCommand(
        "crossmount.cli.commands.index_content", "export", "Write all layers and sources as JSON lines."
    ),
    "import": LazyCommand(
        "crossmount.cli.commands.index_content", "import_", "Add layers and sources from an export."
    ),
    "upgrade": LazyCommand(
        "crossmount.cli.commands.index_content", "upgrade", "Carry must-mount flags of version 0.1.0 over."
    ),
    "stop": LazyCommand(
        "crossmount.cli.commands.index", "stop", "Stop the embedded index; its data stays on disk."
    ),
}


@click.command(cls=LazyGroup, lazy=COMMANDS)
def index() -> None:
    """Inspect and maintain the index; stop the embedded one.

    The embedded index is a server of your own on this host. The first command that needs it starts it, commands
    reach it by a unix socket, and its data is in $CROSSMOUNT_STATE_DIR/embedded if that variable is set, else
    in the folder that `crossmount index status` prints. Commands with the same folder share it.
    """


@click.command(cls=Command)
@json_option
@click.pass_context
def status(ctx: click.Context, as_json: bool) -> None:
    """Show whether the index works, its round trip, and what it contains.

    This does not start the embedded index. The command fails if a remote index does not answer.
    """
    settings = settings_of(ctx)
    match index_kind(index_url(settings)):
        case "off":
            document, lines = {"index": "off"}, ["index: off"]
        case "memory":
            document, lines = {"index": "memory"}, ["index: in the memory of one process, lost when it ends"]
        case "embedded":
            document, lines = _embedded(embedded_status.status(), now=time.time())
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
    """Stop the embedded index. Its data stays on disk, and the next command that needs it starts it again."""
    url = index_url(settings_of(ctx))
    if index_kind(url) != "embedded":
        raise click.UsageError(f"only the embedded index can be stopped from here, not {display_url(url)}", ctx)
    stopped = lifecycle.stop()
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
        f"  layers   {state.layers} in all namespaces",
        f"  memory   {text.size(state.memory)} of at most {text.size(state.memory_bound)}",
        f"  on disk  {_saved(state, now)}",
    ]


def _as_document(state: EmbeddedStatus) -> dict[str, Any]:
    """Return the state as a JSON document. Values that only a running server has are null without one."""
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
    probe = run_async(_probe(settings))
    document = {
        "index": url,
        "running": True,
        "server": probe.server,
        "round_trip_ms": round(probe.round_trip * 1000, 3),
    }
    return document, [
        f"index: {url} answers",
        f"  server      {probe.server}",
        f"  round trip  {text.milliseconds(probe.round_trip)}",
    ]


async def _probe(settings: Settings) -> ServerProbe:
    async with opened_index(settings) as opened:
        probe = await probe_server(opened)
    if probe is None:
        raise AssertionError("a remote index is a server")
    return probe


REGISTRIES_SHOWN = 20
SAMPLE_MAX = 1_000_000_000


@click.command(cls=Command)
@click.option(
    "--sample",
    type=Between(1, SAMPLE_MAX),
    metavar="N",
    help="Read about N keys only, and estimate the rest. Default: all keys.",
)
@json_option
@click.pass_context
def info(ctx: click.Context, sample: int | None, as_json: bool) -> None:
    """Show what the index contains: layers, sources, bytes, their age, and the hit rate.

    It reads all keys of the namespace, a thousand at a time. This takes seconds for each million keys, and a Redis
    user that is allowed to: crossmount-operator in deploy/redis. The hit rate is the share of the layers that
    pushers looked up in the last two weeks and that existed already or could be mounted.
    """
    settings = settings_of(ctx)
    found = run_async(_info(settings, sample))
    where = {"index": display_url(index_url(settings)), "namespace": settings.namespace or DEFAULT_NAMESPACE}
    if as_json:
        output.document({**where, **found.to_json()})
    else:
        output.lines([f"index: {where['index']}, namespace {where['namespace']}", *render_info(found)])


async def _info(settings: Settings, sample: int | None) -> IndexInfo:
    async with opened_index(settings) as index:
        return await index_info(index, sample=sample)


def render_info(found: IndexInfo) -> list[str]:
    """Return the lines that show what an index contains."""
    about = "about " if found.estimated else ""
    lines = [
        f"  layers      {about}{found.layers}, {text.size(found.size)}{_unsized(found)}",
        f"  sources     {about}{found.sources}",
        f"  must-mount  {about}{found.flagged}{_stranded(found)}",
        f"  renewed     {_ages(found)}",
    ]
    if found.keys is not None:
        lines += [
            f"  hit rate    {_hit_rate(found)}",
            f"  underway    {about}{text.count(found.leases, 'upload')}",
            f"  keys        {about}{found.keys}, {_memory(found)}",
        ]
    width = max(map(len, list(found.registries)[:REGISTRIES_SHOWN]), default=0)
    for name, each in list(found.registries.items())[:REGISTRIES_SHOWN]:
        lines.append(
            f"  {name:<{width}}  {text.count(each.layers, 'layer')}, {text.count(each.sources, 'source')}, "
            f"{text.size(each.size)}"
        )
    if len(found.registries) > REGISTRIES_SHOWN:
        lines.append(f"  and {len(found.registries) - REGISTRIES_SHOWN} more registries")
    if found.estimated:
        lines.append(f"estimated from {found.looked_at} keys")
    return lines


def _unsized(found: IndexInfo) -> str:
    return f", {found.unsized} of unknown size" if found.unsized else ""


def _stranded(found: IndexInfo) -> str:
    return f", {found.stranded} WITHOUT a source" if found.stranded else ""


def _ages(found: IndexInfo) -> str:
    if found.newest is None or found.median is None or found.oldest is None:
        return "never"
    newest, median, oldest = map(text.duration, (found.newest, found.median, found.oldest))
    return f"{newest} ago the newest, {median} the median, {oldest} the oldest"


def _hit_rate(found: IndexInfo) -> str:
    if found.hit_rate is None:
        return "no look-ups yet"
    asked = text.count(found.asked or 0, "layer")
    return f"{100 * found.hit_rate:.1f} % of {asked} that pushers asked for in two weeks"


def _memory(found: IndexInfo) -> str:
    ours = "of unknown size" if found.memory is None else f"about {text.size(found.memory)}"
    return ours if found.server_memory is None else f"{ours} of the server's {text.size(found.server_memory)}"
