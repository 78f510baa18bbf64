"""The push of a whole image: one read of the index, blobs side by side, manifests after them, the tag last."""

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from crossmount import events
from crossmount.errors import InvalidInputError
from crossmount.fleet import Fleet, Patience, Slots
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
from crossmount.transfer.report import PushReport
from crossmount.transfer.turns import Turns

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
    reference = Reference.parse(dest) if isinstance(dest, str) else dest
    if reference.target is None:
        reference = reference.with_tag(DEFAULT_TAG)
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
        blobs = await _Push(reference, client, guard, fleet, limits, patience, observer, clock).run(image)
    return PushReport(
        reference=reference,
        digest=image.root.descriptor.digest,
        blobs=blobs.reports(),
        index="off" if guard is None else guard.state,
        seconds=clock() - started,
    )


@dataclass(frozen=True, slots=True)
class _Push:
    """What one push is made of."""

    reference: Reference
    client: RegistryClient
    guard: GuardedIndex | None
    fleet: Fleet | None
    limits: Limits
    patience: Patience
    observer: events.Observer
    clock: Callable[[], float]

    async def run(self, image: Image) -> BlobPusher:
        """Blobs, then manifests, then what was learnt.

        Nothing is recorded of a push that failed, save blobs that it uploaded in its turn: they are there, and
        others waited for them.
        """
        index = NullIndex() if self.guard is None else self.guard
        dest = self.reference.repository
        knowledge = await index.look_up([blob.descriptor.digest for blob in image.blobs], dest)
        slots = Slots(self.limits.uploads, freed=_nobody if self.fleet is None else self.fleet.kick)
        turns = Turns(
            self.fleet, dest, knowledge=knowledge, patience=self.patience, slots=slots, blobs=image.blobs
        )
        async with Mounter(self.client, index, observer=self.observer) as mounter:
            blobs = BlobPusher(
                dest=dest,
                client=self.client,
                mounter=mounter,
                index=index,
                knowledge=knowledge,
                requests=asyncio.Semaphore(self.limits.requests),
                uploads=slots,
                turns=turns,
                observer=self.observer,
                clock=self.clock,
            )
            try:
                await blobs.push_all(image.blobs)
                await push_manifests(
                    image, self.reference, client=self.client, repair=blobs.repair, observer=self.observer
                )
                await turns.tagged()
            finally:
                await asyncio.shield(turns.give_up())
            await index.record(blobs.sightings())
            await mounter.learn(knowledge.traits, blobs.mounts())
        return blobs


def _nobody() -> None:
    """Tell nobody that a slot is free."""
