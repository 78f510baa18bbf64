"""The locality of an image: how many bytes of its blobs each registry already has, according to the index."""

import asyncio
from collections.abc import Collection, Iterable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path

from crossmount.discovery.manifest_summary import ManifestSummary
from crossmount.discovery.manifest_walker import ManifestWalker
from crossmount.index.adapt import adapt
from crossmount.index.aliases import RegistryNames, registry_names_of
from crossmount.index.protocol import Knowledge, MountableLayers, MountIndex
from crossmount.oci import Digest, Reference, Repository, as_reference
from crossmount.oci.layout import Image, load_image
from crossmount.oci.reference import normalise_registry
from crossmount.registry import ClientOptions, RegistryClient

REQUESTS = 8

_NOWHERE = Repository.on("localhost")


async def locality(
    image: str | Path | Reference | Image,
    registries: Iterable[str],
    *,
    index: MountableLayers,
    client: RegistryClient | None = None,
    options: ClientOptions = ClientOptions(),  # noqa: B008 a frozen value
) -> dict[str, int]:
    """Return how many bytes of an image's blobs each registry already has, according to the index.

    It takes one round trip to the index for any number of registries. All platforms of the image count, each blob
    once.

    Args:
        image: a reference, whose manifests are fetched; `oci:DIR[:TAG]`, `oci-archive:FILE[:TAG]` or a path; or an
            image that was read before.
        registries: the registries to look for.
        index: the index to ask.
        client: a client of the reference's registry.
        options: how to reach that registry, without `client`.

    Returns:
        Bytes by registry, as the registries were spelled.

    Raises:
        InvalidInputError: the image or a registry is not valid.
        RegistryError: the manifests could not be fetched.
        IndexFailedError: the index did not answer, or refused.
    """
    names = {given: normalise_registry(given) for given in registries}
    blobs = await blobs_of(image, client=client, options=options)
    start = Repository.on(next(iter(names.values()), _NOWHERE))
    knowledge = await adapt(index).look_up(blobs, start)
    same = registry_names_of(index)
    present = {name: bytes_on(name, blobs, knowledge, start, same) for name in names.values()}
    return {given: present[name] for given, name in names.items()}


def bytes_on(
    registry: str, blobs: Mapping[Digest, int], knowledge: Knowledge, start: Repository, names: RegistryNames
) -> int:
    """Return how many bytes of the blobs a registry has.

    Args:
        registry: the registry, normalised.
        blobs: sizes in bytes.
        knowledge: the result of a look-up of these blobs for `start`.
        start: the destination of that look-up, on any registry.
        names: the names of registries, as the index uses them.
    """
    canonical = names.canonical(registry)
    return sum(
        size
        for blob, size in blobs.items()
        if any(names.canonical(name) == canonical for name in _registries(blob, knowledge, start))
    )


async def holders(
    index: MountIndex, blobs: Collection[Digest], registries: Iterable[str] | None = None
) -> dict[Digest, tuple[Repository, ...]]:
    """Return the repositories that have each blob according to the index, in order.

    It takes one round trip for each registry, and one more if `registries` is None.

    Args:
        index: the index to ask.
        blobs: the blobs.
        registries: the registries to look for; None is all that the index names for these blobs.
    """
    if registries is None:
        first = await index.look_up(blobs, _NOWHERE)
        names = {registry for blob in blobs for registry in _registries(blob, first, _NOWHERE)}
    else:
        names = {normalise_registry(given) for given in registries}
    found: dict[Digest, set[Repository]] = {blob: set() for blob in blobs}
    for registry in names:
        start = Repository.on(registry)
        seen = await index.look_up(blobs, start)
        for blob in blobs:
            layer = seen.of(blob)
            found[blob].update(layer.sources, [start] if layer.in_dest else [])
    return {blob: tuple(sorted(some)) for blob, some in found.items()}


async def blobs_of(
    image: str | Path | Reference | Image,
    *,
    client: RegistryClient | None = None,
    options: ClientOptions = ClientOptions(),  # noqa: B008 a frozen value
) -> dict[Digest, int]:
    """Return the sizes of an image's blobs in bytes, in the order of its manifests, without foreign layers.

    Args:
        image: a reference, the source of a layout, or an image that was read before.
        client: a client of the reference's registry.
        options: how to reach it, without `client`.

    Raises:
        InvalidInputError: the image is not valid.
        RegistryError: the manifests could not be fetched.
    """
    if not isinstance(image, Image | Path) and not (isinstance(image, str) and is_layout(image)):
        image = as_reference(image)
    if isinstance(image, Reference):
        return await _blobs_on_registry(image, client, options)
    read = image if isinstance(image, Image) else await asyncio.to_thread(load_image, image, allow_absent=True)
    return {blob.descriptor.digest: blob.descriptor.size for blob in read.blobs}


def is_layout(text: str) -> bool:
    """Return whether `text` is a layout and not a reference: it has a layout's scheme, or is an existing path."""
    return text.startswith(("oci:", "oci-archive:", "./", "../", "/")) or Path(text).exists()


async def _blobs_on_registry(
    reference: Reference, client: RegistryClient | None, options: ClientOptions
) -> dict[Digest, int]:
    reference = reference.or_latest()
    blobs: dict[Digest, int] = {}

    async def take(manifest: ManifestSummary) -> None:
        blobs.update(manifest.blobs)

    async with AsyncExitStack() as stack:
        if client is None:
            client = await stack.enter_async_context(RegistryClient(reference, options=options))
        root = await client.get_manifest(reference)
        await take(ManifestSummary.of(root))
        walker = ManifestWalker(client, None, gate=asyncio.Semaphore(REQUESTS))
        await walker.walk(reference.repository, ManifestSummary.of(root).children, take)
    return blobs


def _registries(blob: Digest, knowledge: Knowledge, start: Repository) -> set[str]:
    """Return the registries that have a blob according to the index."""
    layer = knowledge.of(blob)
    here = {start.registry} if layer.sources or layer.in_dest else set()
    return here.union(layer.elsewhere)
