"""`crossmount locate`: the registries and repositories that have a layer, or the layers of an image."""

from collections.abc import Mapping, Sequence
from typing import Any

import click

from crossmount import _formatting as text
from crossmount._dataclass import dataclass
from crossmount.cli import output
from crossmount.cli.access import client_options, opened_index
from crossmount.cli.command import Command, json_option
from crossmount.cli.event_loop import run_async
from crossmount.cli.options import Checked
from crossmount.cli.settings import Settings, settings_of
from crossmount.discovery.locality import blobs_of, holders, is_layout
from crossmount.oci import Digest, Reference, Repository
from crossmount.oci.reference import normalise_registry

REPOSITORIES_SHOWN = 3


@dataclass(frozen=True, slots=True)
class BlobLocations:
    """Where some blobs are, as far as the index knows.

    Attributes:
        sizes: bytes of each blob; None if unknown.
        holders: the repositories that have each blob, in order.
        registries: all that have any of the blobs, or those that were asked for.
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
    if text.startswith(("sha256:", "sha512:")):
        return Digest(text)
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
