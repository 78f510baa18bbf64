"""`crossmount index info`."""

import click

from crossmount import _formatting as text
from crossmount.cli import output
from crossmount.cli.access import DEFAULT_NAMESPACE, display_url, index_url, opened_index
from crossmount.cli.command import Command, json_option
from crossmount.cli.event_loop import run_async
from crossmount.cli.options import Between
from crossmount.cli.settings import Settings, settings_of
from crossmount.maintenance import IndexInfo, index_info

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
