"""`crossmount sources`, `add`, `forget` and `must-mount`: the index's entry of one layer."""

from datetime import UTC, datetime

import click

from crossmount.cli import output
from crossmount.cli.access import opened_index, warn_if_alone
from crossmount.cli.command import Command, json_option
from crossmount.cli.event_loop import run_async
from crossmount.cli.options import DIGEST, REFERENCE
from crossmount.cli.settings import Settings, settings_of
from crossmount.index.must_mount import MustMountFlag, read_must_mount, set_must_mount, this_user
from crossmount.index.protocol import LayerKnowledge, backing_server
from crossmount.oci import Digest, Reference, Repository


@click.command(cls=Command)
@click.argument("layer", type=DIGEST)
@click.argument("dest", type=REFERENCE)
@json_option
@click.pass_context
def sources(ctx: click.Context, layer: Digest, dest: Reference, as_json: bool) -> None:
    """List the repositories that LAYER, a digest, could be mounted from into DEST.

    They are on DEST's registry, and DEST is not among them. They are hints: the registry decides.
    """
    known = run_async(_known(settings_of(ctx), layer, dest.repository))
    if as_json:
        output.document(
            {
                "layer": layer,
                "dest": str(dest.repository),
                "sources": [str(source) for source in known.sources],
                "mountable": bool(known.sources) and not known.in_dest,
                "must_mount": known.must_mount,
            }
        )
        return
    output.lines(str(source) for source in known.sources)
    for words in _remarks(known, dest.repository):
        output.note(words)


@click.command(cls=Command)
@click.argument("layer", type=DIGEST)
@click.argument("reference", type=REFERENCE)
@click.option(
    "--must-mount",
    is_flag=True,
    help="Allow LAYER only to be mounted, never uploaded, by every push that reaches this index. For operators.",
)
@click.option("--why", metavar="TEXT", default="", help="With --must-mount: a remark, stored with the flag.")
@json_option
@click.pass_context
def add(
    ctx: click.Context,
    layer: Digest,
    reference: Reference,
    must_mount: bool,
    why: str,
    as_json: bool,
) -> None:
    """Record in the index that the repository of REFERENCE has LAYER, a digest. This is not verified.

    A tag or a digest in REFERENCE is ignored. The must-mount flag stays until `crossmount must-mount LAYER
    --clear` clears it. Only pushes that read the index obey it: a push with --index off, or while the index is
    unreachable, uploads LAYER nevertheless.
    """
    flagged = run_async(_add(settings_of(ctx), layer, reference.repository, must_mount=must_mount, why=why))
    if as_json:
        output.document({"layer": layer, "source": str(reference.repository), "must_mount": flagged})
        return
    flag = ", must-mount is set" if flagged else ""
    output.lines([f"added {reference.repository} as a source of {layer}{flag}"])


@click.command(cls=Command)
@click.argument("layer", type=DIGEST)
@click.argument("reference", type=REFERENCE)
@json_option
@click.pass_context
def forget(ctx: click.Context, layer: Digest, reference: Reference, as_json: bool) -> None:
    """Remove the repository of REFERENCE as a source of LAYER, a digest, for everybody who shares the index."""
    known = run_async(_forget(settings_of(ctx), layer, reference.repository))
    if as_json:
        output.document({"layer": layer, "source": str(reference.repository), "was_known": known})
    elif known:
        output.lines([f"forgot {reference.repository} as a source of {layer}"])
    else:
        output.lines([f"{reference.repository} was not known as a source of {layer}"])


@click.command(cls=Command)
@click.argument("layer", type=DIGEST)
@click.option("--clear", is_flag=True, help="Clear the flag: LAYER may be uploaded again.")
@json_option
@click.pass_context
def must_mount(ctx: click.Context, layer: Digest, clear: bool, as_json: bool) -> None:
    """Show whether LAYER, a digest, must be mounted and never uploaded; with --clear, clear that flag.

    The flag is set together with a source: `crossmount add LAYER REFERENCE --must-mount`.
    """
    before, flagged, flag = run_async(_must_mount(settings_of(ctx), layer, clear=clear))
    if as_json:
        about = {} if flag is None else {"who": flag.who, "since": flag.since, "why": flag.why}
        output.document({"layer": layer, "must_mount": flagged, **about, **({"was_set": before} if clear else {})})
    elif clear and not before:
        output.lines([f"{layer} may be uploaded: the flag was not set"])
    elif flagged:
        output.lines([f"{layer} must be mounted{'' if flag is None else _said_by(flag)}"])
    else:
        output.lines([f"{layer} may be uploaded"])


async def _known(settings: Settings, layer: Digest, dest: Repository) -> LayerKnowledge:
    async with opened_index(settings) as index:
        return (await index.look_up([layer], dest)).of(layer)


async def _add(settings: Settings, layer: Digest, source: Repository, *, must_mount: bool, why: str) -> bool:
    warn_if_alone(settings)
    async with opened_index(settings) as index:
        if must_mount and why and (server := backing_server(index)) is not None:
            await set_must_mount(server, [layer], who=this_user(), why=why)
        await index.add_source(layer, source, must_mount=must_mount)
        return await index.must_mount(layer)


async def _forget(settings: Settings, layer: Digest, source: Repository) -> bool:
    async with opened_index(settings) as index:
        known = (await index.look_up([layer], source)).of(layer).in_dest
        await index.forget(layer, source)
        return known


async def _must_mount(
    settings: Settings, layer: Digest, *, clear: bool
) -> tuple[bool, bool, MustMountFlag | None]:
    """Return whether the flag was set before, whether it is now, and what it says."""
    async with opened_index(settings) as index:
        before = await index.must_mount(layer)
        if clear:
            await index.clear_must_mount(layer)
            return before, await index.must_mount(layer), None
        server = backing_server(index)
        return before, before, None if server is None else await read_must_mount(server, layer)


def _said_by(flag: MustMountFlag) -> str:
    since = datetime.fromtimestamp(flag.since, UTC).isoformat(timespec="minutes").removesuffix("+00:00")
    return f": {flag.who or '?'}, {since} UTC{f': {flag.why}' if flag.why else ''}"


def _remarks(known: LayerKnowledge, dest: Repository) -> list[str]:
    remarks = []
    if not known.sources:
        remarks.append(f"no source is known on {dest.registry}")
    if known.in_dest:
        remarks.append(f"{dest} is known to have it already")
    if known.elsewhere:
        remarks.append(f"known on other registries too: {', '.join(known.elsewhere)}")
    if known.must_mount:
        remarks.append("it must be mounted, never uploaded")
    return remarks
