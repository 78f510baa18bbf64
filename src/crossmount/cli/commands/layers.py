"""`crossmount sources`, `locate`, `add`, `forget` and `must-mount`: what the index knows of layers."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import click

from crossmount import _formatting as text
from crossmount._dataclass import dataclass
from crossmount.cli import output
from crossmount.cli.access import client_options, opened_index, warn_if_alone
from crossmount.cli.command import Command, json_option
from crossmount.cli.event_loop import run_async
from crossmount.cli.options import DIGEST, REFERENCE, Checked, is_short, parse_digest
from crossmount.cli.settings import Settings, settings_of
from crossmount.discovery.locality import blobs_of, holders, is_layout
from crossmount.index.must_mount import MustMountFlag, read_must_mount, set_must_mount, this_user
from crossmount.index.protocol import LayerKnowledge, backing_server
from crossmount.oci import Digest, Reference, Repository
from crossmount.oci.reference import normalise_registry


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
    """Return whether the flag was set before, whether it is set now, and its record."""
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


REPOSITORIES_SHOWN = 3


@dataclass(frozen=True, slots=True)
class BlobLocations:
    """Where some blobs are, as far as the index knows.

    Attributes:
        sizes: bytes of each blob; None if unknown.
        holders: the repositories that have each blob, in order.
        registries: all that have any of the blobs, or those that the user chose.
    """

    sizes: Mapping[Digest, int | None]
    holders: Mapping[Digest, tuple[Repository, ...]]
    registries: tuple[str, ...]

    def on(self, registry: str) -> list[Digest]:
        """Return the blobs that a registry has."""
        return [blob for blob, found in self.holders.items() if any(where.registry == registry for where in found)]

    def bytes(self, blobs: Sequence[Digest]) -> int:
        """Return the sum of the known sizes of blobs."""
        return sum(self.sizes[blob] or 0 for blob in blobs)


def _parse_target(text: str) -> Digest | Reference | str:
    """Parse a digest, an image layout or a reference."""
    if text.startswith(("sha256:", "sha512:")) or is_short(text):
        return parse_digest(text)
    return text if is_layout(text) else Reference.parse(text)


@click.command(cls=Command)
@click.argument("what", metavar="LAYER|IMAGE", type=Checked("layer or image", _parse_target))
@click.option(
    "--for",
    "registries",
    type=Checked("registry", normalise_registry),
    multiple=True,
    metavar="REGISTRY",
    help="Look at this registry only. Repeatable.",
)
@json_option
@click.pass_context
def locate(ctx: click.Context, what: Digest | Reference | str, registries: tuple[str, ...], as_json: bool) -> None:
    """Show the registries and repositories that have LAYER, a digest, or each layer of IMAGE.

    IMAGE is a reference, whose manifests are fetched, or an image layout: oci:DIR[:TAG], oci-archive:FILE[:TAG],
    or the path of either. For an image, it also shows how many of its bytes each registry has. All platforms of
    an image count. The answers come from the index, so they are hints.
    """
    names = tuple(dict.fromkeys(registries)) or None
    found = run_async(_locate(settings_of(ctx), what, names))
    if isinstance(what, Digest):
        _print_layer(what, found, asked=names is not None, as_json=as_json)
    elif as_json:
        output.document(document(str(what), found))
    else:
        output.lines(render_image(found))


async def _locate(
    settings: Settings, what: Digest | Reference | str, names: tuple[str, ...] | None
) -> BlobLocations:
    async with opened_index(settings) as index:
        sizes: dict[Digest, int | None] = {}
        if isinstance(what, Digest):
            start = Repository.on(names[0] if names else "localhost")
            sizes[what] = (await index.look_up([what], start)).of(what).size
        else:
            sizes |= await blobs_of(what, options=client_options(settings))
        known = await holders(index, list(sizes), names)
        seen = {where.registry for found in known.values() for where in found}
        return BlobLocations(sizes, known, names or tuple(sorted(seen)))


def _print_layer(layer: Digest, found: BlobLocations, *, asked: bool, as_json: bool) -> None:
    where = [str(repository) for repository in found.holders[layer]]
    size = found.sizes[layer]
    if as_json:
        has = {name: (size if found.on(name) else 0) for name in found.registries}
        output.document({"layer": layer, "locations": where, **({"size": size, "bytes": has} if asked else {})})
        return
    output.lines(where)
    for name in found.registries if asked else ():
        if not found.on(name):
            output.note(f"no repository on {name} is known to have {layer}")
    if not asked and not where:
        output.note(f"no repository is known to have {layer}")


def document(image: str, found: BlobLocations) -> dict[str, Any]:
    """Return where an image's blobs are, as a JSON document."""
    return {
        "image": image,
        "size": found.bytes(list(found.sizes)),
        "blobs": [
            {"digest": blob, "size": size, "locations": [str(where) for where in found.holders[blob]]}
            for blob, size in found.sizes.items()
        ],
        "registries": {
            name: {"bytes": found.bytes(found.on(name)), "blobs": len(found.on(name))} for name in found.registries
        },
    }


def render_image(found: BlobLocations) -> list[str]:
    """Return where an image's blobs are: a line for each blob, then one for each registry."""
    lines = [
        f"{text.short(blob)} {text.size(size or 0):>9}  {_some(found.holders[blob])}"
        for blob, size in found.sizes.items()
    ]
    whole, width = found.bytes(list(found.sizes)), max(map(len, found.registries), default=0)
    for name in found.registries:
        has = found.on(name)
        lines.append(
            f"{name:<{width}}  {text.size(found.bytes(has)):>8} of {text.size(whole)}, "
            f"{len(has)} of {text.count(len(found.sizes), 'blob')}"
        )
    return lines if found.registries else [*lines, "no registry is known to have any of it"]


def _some(where: Sequence[Repository]) -> str:
    shown = ", ".join(str(repository) for repository in where[:REPOSITORIES_SHOWN]) or "nowhere known"
    more = len(where) - REPOSITORIES_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown
