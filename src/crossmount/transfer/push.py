"""The push of a whole image: one read of the index, blobs side by side, manifests after them, the tag last."""

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

from crossmount import events
from crossmount.errors import InvalidInputError
from crossmount.fleet import Fleet, Patience
from crossmount.index.adapt import widen
from crossmount.index.guard import GuardedIndex
from crossmount.index.memory import null_index
from crossmount.index.protocol import MountableLayers
from crossmount.oci import Reference
from crossmount.oci.layout import Image, load_image
from crossmount.registry import ClientOptions, RegistryClient
from crossmount.transfer.image_pusher import ImagePusher, Limits
from crossmount.transfer.report import PushReport


async def push(
    source: str | Path | Image,
    dest: str | Reference,
    *,
    index: MountableLayers | None = None,
    client: RegistryClient | None = None,
    options: ClientOptions = ClientOptions(),  # noqa: B008 a frozen value
    limits: Limits = Limits(),  # noqa: B008 a frozen value
    patience: Patience = Patience(),  # noqa: B008 a frozen value
    fleet: Fleet | None = None,
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
        patience: how long to wait for another's upload of the same layer; `Patience(limit=0)` never waits.
        fleet: whom to take turns with; made on the same index. None takes turns with whoever shares the index.
        observer: told of each thing that happens.
        clock: seconds, for the report.

    Raises:
        InvalidInputError: `source` or `dest` cannot be understood, or a blob of the image is missing.
        RegistryError: the registry did not take the image.
        MountRequiredError: a must-mount layer could not be mounted.
    """
    started = clock()
    reference = (Reference.parse(dest) if isinstance(dest, str) else dest).or_latest()
    image = source if isinstance(source, Image) else await asyncio.to_thread(load_image, source)
    if reference.digest is not None and reference.digest != image.root.descriptor.digest:
        raise InvalidInputError(
            f"{reference}: the image has the digest {image.root.descriptor.digest}: give that one, or none"
        )
    guard = None if index is None else GuardedIndex(widen(index), observer=observer)
    async with AsyncExitStack() as stack:
        if client is None:
            client = await stack.enter_async_context(RegistryClient(reference, options=options, observer=observer))
        if fleet is None and guard is not None:
            fleet = await stack.enter_async_context(Fleet(guard))
        pushing = ImagePusher.of(
            null_index() if guard is None else guard,
            fleet,
            limits,
            patience=patience,
            observer=observer,
            clock=clock,
        )
        blobs = await pushing.push(image, reference, client)
    return PushReport(
        reference=reference,
        digest=image.root.descriptor.digest,
        blobs=blobs.reports(),
        index="off" if guard is None else guard.state,
        seconds=clock() - started,
    )
