"""The push of a whole image: one read of the index, blobs side by side, manifests after them, the tag last."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from crossmount import events
from crossmount.errors import InvalidInputError
from crossmount.index.guard import GuardedIndex
from crossmount.index.null import NullIndex
from crossmount.index.protocol import MountableLayers
from crossmount.index.widen import widen
from crossmount.mount import Mounter
from crossmount.oci import Reference
from crossmount.oci.layout import Image, load_image
from crossmount.registry import ClientOptions, RegistryClient
from crossmount.transfer.blobs import BlobPusher
from crossmount.transfer.manifests import push_manifests
from crossmount.transfer.report import IndexState, PushReport

DEFAULT_TAG = "latest"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much goes on side by side in one push.

    Attributes:
        requests: small requests: HEAD and mount.
        uploads: blobs whose bytes are on their way.
    """

    requests: int = 32
    uploads: int = 4


async def push(
    source: str | Path | Image,
    dest: str | Reference,
    *,
    index: MountableLayers | None = None,
    client: RegistryClient | None = None,
    options: ClientOptions = ClientOptions(),  # noqa: B008 a frozen value
    limits: Limits = Limits(),
    observer: events.Observer = events.ignore,
    clock: Callable[[], float] = time.monotonic,
) -> PushReport:
    """Push an image: mount what the registry already holds, upload the rest.

    Args:
        source: `oci:DIR[:TAG]`, `oci-archive:FILE[:TAG]`, a path, or an image that was read before.
        dest: where to; without a tag it is `latest`.
        index: who knows the sources; None pushes without one. It never makes the push fail.
        client: the client of dest's registry, if there is one already; else one is made from `options`.
        options: how to reach the registry, without `client`.
        limits: how much goes on side by side.
        observer: told of each thing that happens.
        clock: seconds, for the report.

    Raises:
        InvalidInputError: `source` or `dest` cannot be understood, or a blob of the image is missing.
        RegistryError: the registry did not take the image.
        MountRequiredError: a must-mount layer could not be mounted.
    """
    started = clock()
    reference = _named(Reference.parse(dest) if isinstance(dest, str) else dest)
    image = source if isinstance(source, Image) else await asyncio.to_thread(load_image, source)
    if reference.digest is not None and reference.digest != image.root.descriptor.digest:
        raise InvalidInputError(
            f"{reference}: the image has the digest {image.root.descriptor.digest}: give that one, or none"
        )
    guard = None if index is None else GuardedIndex(widen(index), observer=observer)
    if client is not None:
        blobs = await _push(image, reference, client, guard, limits, observer)
    else:
        async with RegistryClient(reference, options=options, observer=observer) as own_client:
            blobs = await _push(image, reference, own_client, guard, limits, observer)
    return PushReport(
        reference=reference,
        digest=image.root.descriptor.digest,
        blobs=blobs.reports(),
        index=_state(guard),
        seconds=clock() - started,
    )


async def _push(
    image: Image,
    reference: Reference,
    client: RegistryClient,
    guard: GuardedIndex | None,
    limits: Limits,
    observer: events.Observer,
) -> BlobPusher:
    """Blobs, then manifests, then what was learnt: nothing is recorded of a push that failed."""
    index = NullIndex() if guard is None else guard
    dest = reference.repository
    knowledge = await index.look_up([blob.descriptor.digest for blob in image.blobs], dest)
    async with Mounter(client, index, observer=observer) as mounter:
        blobs = BlobPusher(
            dest=dest,
            client=client,
            mounter=mounter,
            index=index,
            knowledge=knowledge,
            requests=asyncio.Semaphore(limits.requests),
            uploads=asyncio.Semaphore(limits.uploads),
            observer=observer,
        )
        await blobs.push_all(image.blobs)
        await push_manifests(image, reference, client=client, repair=blobs.repair, observer=observer)
        await index.record(blobs.sightings())
        await mounter.learn(knowledge.traits, blobs.mounts())
    return blobs


def _named(reference: Reference) -> Reference:
    return reference if reference.target else replace(reference, tag=DEFAULT_TAG)


def _state(guard: GuardedIndex | None) -> IndexState:
    return "off" if guard is None else guard.state
