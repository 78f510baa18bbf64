"""What pushes share that go on side by side, and the push of one image with it."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

from crossmount import events
from crossmount.fleet import Fleet, Patience, Slots
from crossmount.index.protocol import Knowledge, MountIndex
from crossmount.mount import Mounter
from crossmount.oci import Digest, Reference, Repository
from crossmount.oci.layout import Image
from crossmount.registry import RegistryClient
from crossmount.transfer.blobs import BlobPusher
from crossmount.transfer.manifests import push_manifests
from crossmount.transfer.turns import PushTurns


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much goes on side by side in one push, or one copy.

    Attributes:
        requests: small requests: HEAD and mount.
        uploads: blobs whose bytes are on their way.
        images: images, in a copy of many.
    """

    requests: int = 32
    uploads: int = 4
    images: int = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagePusher:
    """What pushes share.

    Attributes:
        index: who knows the sources; one that never fails.
        fleet: whom to take turns with, if with anybody.
        requests: limits HEADs and mounts.
        slots: limits blobs whose bytes are on their way.
        allow_transfer: whether a must-mount layer may be uploaded all the same.
    """

    index: MountIndex
    fleet: Fleet | None
    requests: asyncio.Semaphore
    slots: Slots
    patience: Patience
    observer: events.Observer
    clock: Callable[[], float]
    allow_transfer: bool = False

    @classmethod
    def of(
        cls,
        index: MountIndex,
        fleet: Fleet | None,
        limits: Limits,
        *,
        patience: Patience,
        observer: events.Observer,
        clock: Callable[[], float],
        allow_transfer: bool = False,
    ) -> Self:
        """Make what is shared within `limits`."""
        return cls(
            index=index,
            fleet=fleet,
            requests=asyncio.Semaphore(limits.requests),
            slots=Slots(limits.uploads, on_release=_nobody if fleet is None else fleet.kick),
            patience=patience,
            observer=observer,
            clock=clock,
            allow_transfer=allow_transfer,
        )

    async def push(
        self, image: Image, reference: Reference, client: RegistryClient, *, source: Repository | None = None
    ) -> BlobPusher:
        """Push blobs, then manifests, then record what was learnt.

        Nothing is recorded of a push that failed, save blobs that it uploaded in its turn: they are there, and
        others waited for them.

        Args:
            image: what to push.
            reference: where to.
            client: the client of its registry.
            source: a repository that is known to hold all blobs, on whatever registry.
        """
        dest = reference.repository
        digests = [blob.descriptor.digest for blob in image.blobs]
        knowledge = await self.index.look_up(digests, dest)
        if source is not None and source.registry == dest.registry and source != dest:
            knowledge = _with_source(knowledge, digests, source)
        if self.allow_transfer:
            knowledge = _without_must_mount(knowledge)
        turns = PushTurns(
            self.fleet,
            dest,
            knowledge=knowledge,
            patience=self.patience,
            slots=self.slots,
            blobs=image.blobs,
            observer=self.observer,
            clock=self.clock,
        )
        async with Mounter(client, self.index, observer=self.observer) as mounter:
            blobs = BlobPusher(
                dest=dest,
                client=client,
                mounter=mounter,
                index=self.index,
                knowledge=knowledge,
                requests=self.requests,
                uploads=self.slots,
                turns=turns,
                observer=self.observer,
            )
            try:
                await blobs.push_all(image.blobs)
                await push_manifests(image, reference, client=client, repair=blobs.repair, observer=self.observer)
                await turns.publish_deferred()
            finally:
                await asyncio.shield(turns.release_deferred())
            await self.index.record(blobs.sightings())
            await mounter.record_traits(knowledge.traits, blobs.mounts())
        return blobs


def _with_source(knowledge: Knowledge, digests: list[Digest], source: Repository) -> Knowledge:
    """Add a source that somebody read a manifest from."""
    layers = {digest: knowledge.of(digest) for digest in digests}
    return replace(
        knowledge,
        layers={
            digest: replace(known, sources=tuple(sorted({*known.sources, source})))
            for digest, known in layers.items()
        },
    )


def _without_must_mount(knowledge: Knowledge) -> Knowledge:
    """Let every layer be uploaded; the index's flags stay as they are."""
    layers = {digest: replace(known, must_mount=False) for digest, known in knowledge.layers.items()}
    return replace(knowledge, layers=layers)


def _nobody() -> None:
    """Tell nobody that a slot is free."""
