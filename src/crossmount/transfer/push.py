"""The public `push`: one read of the index, blobs concurrently, manifests after them, the tag last."""

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

from crossmount import events
from crossmount.errors import InvalidInputError
from crossmount.fleet import Fleet, Patience
from crossmount.index.adapt import adapt
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
    """Push an image: mount the blobs that the registry already has, upload the rest.

    Args:
        source: `oci:DIR[:TAG]`, `oci-archive:FILE[:TAG]`, a path, or an image that was read before.
        dest: the destination; `latest` without a tag.
        index: names the sources; None pushes without an index. Its failures never fail the push.
        client: a client of dest's registry; without it one is made from `options`.
        options: how to reach the registry, without `client`.
        limits: how much is done at once.
        patience: how long to wait for another pusher's upload of the same layer; `Patience(limit=0)` never waits.
        fleet: decides which pusher uploads a layer; made on the same index. None makes one from the index.
        observer: receives everything that happens.
        clock: seconds, for the report.

    Raises:
        InvalidInputError: `source` or `dest` is not valid, or a blob of the image is missing.
        RegistryError: the registry did not accept the image.
        MountRequiredError: a must-mount layer could not be mounted.
    """
    started = clock()
    reference = (Reference.parse(dest) if isinstance(dest, str) else dest).or_latest()
    image = source if isinstance(source, Image) else await asyncio.to_thread(load_image, source)
    if reference.digest is not None and reference.digest != image.root.descriptor.digest:
        raise InvalidInputError(
            f"{reference}: the image has the digest {image.root.descriptor.digest}: give that one, or none"
        )
    guard = None if index is None else GuardedIndex(adapt(index), observer=observer)
    async with AsyncExitStack() as stack:
        if client is None:
            client = await stack.enter_async_context(RegistryClient(reference, options=options, observer=observer))
        if fleet is None and guard is not None:
            fleet = await stack.enter_async_context(Fleet(guard))
        pusher = ImagePusher.of(
            null_index() if guard is None else guard,
            fleet,
            limits,
            patience=patience,
            observer=observer,
            clock=clock,
        )
        blobs = await pusher.push(image, reference, client)
    return PushReport(
        reference=reference,
        digest=image.root.descriptor.digest,
        blobs=blobs.reports(),
        index="off" if guard is None else guard.state,
        seconds=clock() - started,
        build_cache=image.root.is_build_cache,
    )
