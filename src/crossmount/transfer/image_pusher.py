"""The push of one image: blobs first, then manifests, children before their index, the tag last.

Pushes that run at once share an `ImagePusher`: its limits, and their turns with the fleet.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import field, replace
from functools import partial
from typing import Self

from crossmount import events
from crossmount._dataclass import dataclass
from crossmount._parsing import is_above
from crossmount._tasks import collect, run_all
from crossmount.errors import CrossmountError, InvalidInputError, knowing
from crossmount.fleet import Fleet, Patience, Slots
from crossmount.index.aliases import registry_names_of
from crossmount.index.exclusions import look_up_excluding
from crossmount.index.protocol import Knowledge, MountIndex, backing_server
from crossmount.mount import Mounter
from crossmount.mount.findings import Truths
from crossmount.oci import Digest, Manifest, Reference, Repository
from crossmount.oci.layout import Image
from crossmount.registry import RegistryClient
from crossmount.transfer.accounting import Accounting, PushAccount
from crossmount.transfer.blobs import BlobPusher
from crossmount.transfer.missing import AbsentBlobs, Repairs
from crossmount.transfer.turns import PushTurns


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much one push, or one copy, does at once.

    Attributes:
        requests: concurrent small requests: HEAD and mount.
        uploads: concurrent uploads of blobs.
        images: concurrent images, in a copy of many.

    Raises:
        InvalidInputError: one is no whole number above 0.
    """

    requests: int = 32
    uploads: int = 4
    images: int = 8

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name in ("requests", "uploads", "images"):
            if not is_above(value := getattr(self, name), 0, whole=True):
                raise InvalidInputError(f"{name}: {value!r}: give a whole number, above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagePusher:
    """Pushes images.

    Attributes:
        index: names the sources; it must never fail.
        fleet: decides which pusher uploads a blob; None uploads without asking.
        requests: limits concurrent HEADs and mounts.
        slots: limits concurrent uploads.
        patience: how long to wait for another pusher's upload.
        observer: receives everything that happens.
        clock: seconds.
        allow_transfer: whether a must-mount layer may be uploaded.
        accounting: how pushes are counted.
        truths: whether the registries' 201s to mounts were true: one image finds it out for all.
    """

    index: MountIndex
    fleet: Fleet | None
    requests: asyncio.Semaphore
    slots: Slots
    patience: Patience
    observer: events.Observer
    clock: Callable[[], float]
    allow_transfer: bool = False
    accounting: Accounting = Accounting()
    truths: Truths = field(default_factory=Truths)

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
        """Return a pusher with these limits."""
        return cls(
            index=index,
            fleet=fleet,
            requests=asyncio.Semaphore(limits.requests),
            slots=Slots(limits.uploads, on_release=_nothing if fleet is None else fleet.wake),
            patience=patience,
            observer=observer,
            clock=clock,
            allow_transfer=allow_transfer,
        )

    async def push(
        self,
        image: Image,
        reference: Reference,
        client: RegistryClient,
        *,
        source: Repository | None = None,
        absent: AbsentBlobs | None = None,
        tags: Sequence[str] = (),
        push_id: str = "",
        on_knowledge: Callable[[Knowledge], None] = lambda _: None,
    ) -> BlobPusher:
        """Push blobs, then manifests, then record in the index what the registry confirmed.

        A push that fails records that it failed, and blobs that it uploaded in its turn: the registry has those,
        and other pushers waited for them.

        Args:
            image: the image.
            reference: the destination.
            client: the client of its registry.
            source: a repository that is known to have all blobs, on any registry.
            absent: finds the blobs that a layout lacks.
            tags: further tags of the image; each is written after everything else.
            push_id: the name under which the push is counted; a new one by default.
            on_knowledge: receives what the index knows of the image, before its blobs are pushed.
        """
        counted = PushAccount(self.accounting, self.index, push_id or self.accounting.new_id())
        with knowing(registry=reference.registry, repository=reference.repository, reference=reference):
            try:
                async with self._connecting(client):
                    return await self._push(image, reference, client, source, absent, tags, counted, on_knowledge)
            except CrossmountError:
                counted.end(image.blobs, succeeded=False)
                await self.index.record(())
                raise

    async def _push(
        self,
        image: Image,
        reference: Reference,
        client: RegistryClient,
        source: Repository | None,
        absent: AbsentBlobs | None,
        tags: Sequence[str],
        counted: PushAccount,
        on_knowledge: Callable[[Knowledge], None],
    ) -> BlobPusher:
        dest = reference.repository
        digests = [blob.descriptor.digest for blob in image.blobs]
        account = await client.account(dest)
        knowledge = await look_up_excluding(self.index, digests, dest, account=account)
        on_knowledge(knowledge)
        names = registry_names_of(self.index)
        read_from = None
        if source is not None and names.canonical(source.registry) == names.canonical(dest.registry):
            read_from = dest.sibling(source.name)
            knowledge = _with_source(knowledge, digests, read_from, dest)
        if self.allow_transfer:
            knowledge = _without_must_mount(knowledge)
        observer = events.both(
            counted.begin(dest, knowledge, waits_for=self.patience.waits_for, clock=self.clock), self.observer
        )
        if absent is not None:
            image = await absent.resolve(image, dest, client, knowledge)
        turns = PushTurns(
            self.fleet,
            dest,
            knowledge=knowledge,
            patience=self.patience,
            slots=self.slots,
            blobs=image.blobs,
            observer=observer,
            clock=self.clock,
        )
        async with Mounter(
            client, self.index, observer=observer, proves_first=True, truths=self.truths
        ) as mounter:
            if read_from is not None:
                mounter.prefer(read_from)
            blobs = BlobPusher(
                dest=dest,
                client=client,
                mounter=mounter,
                index=self.index,
                knowledge=knowledge,
                requests=self.requests,
                uploads=self.slots,
                turns=turns,
                observer=observer,
            )
            try:
                await blobs.push_all(image.blobs)
                repairs = Repairs(blobs, image.blobs)
                await repairs.check_mounts()
                await _push_manifests(image, reference, client, repairs, observer, counted.push_id)
                for tag in tags:
                    digest = await client.put_manifest(Reference(dest, tag), image.root, push_id=counted.push_id)
                    observer(events.ManifestPushed(digest=digest, tag=tag))
                await turns.publish_deferred()
            finally:
                await asyncio.shield(turns.release_deferred())
            counted.end(image.blobs, succeeded=True)
            await self.index.record(blobs.sightings())
            await mounter.findings.record_traits(knowledge.traits, blobs.mounts())
            await mounter.findings.record_denied(dest, knowledge)
        return blobs

    @asynccontextmanager
    async def _connecting(self, client: RegistryClient) -> AsyncIterator[None]:
        """Connect to the registry while a push asks the index, if that has a server.

        Where the index is as far away as the registry, this saves the round trips of TCP and TLS, and the one in
        which the registry asks for a token. What fails here is reported by the request that needs its answer.
        """
        if backing_server(self.index) is None:
            yield
            return
        connecting = asyncio.create_task(client.connect())
        connecting.add_done_callback(collect)
        try:
            yield
        finally:
            connecting.cancel()


async def _push_manifests(
    image: Image,
    reference: Reference,
    client: RegistryClient,
    repairs: Repairs,
    observer: events.Observer,
    push_id: str,
) -> None:
    """Push every manifest of `image`, the root last, by its tag or else by its digest.

    A manifest that the registry refuses because it lacks a blob is pushed once more, after the missing blobs.

    Raises:
        RegistryError: the registry refused a manifest.
    """

    async def put(manifest: Manifest) -> None:
        digest = manifest.descriptor.digest
        target = reference if manifest is image.root else Reference(reference.repository, digest=digest)
        blobs = [blob.digest for blob in manifest.blobs]
        await repairs.put(partial(client.put_manifest, target, manifest, push_id=push_id), blobs)
        observer(events.ManifestPushed(digest=digest, tag=target.tag))

    for level in _levels(image):
        await run_all([partial(put, manifest) for manifest in level])


def _levels(image: Image) -> list[list[Manifest]]:
    """Group the manifests so that each level names only manifests of earlier levels."""
    depth: dict[Digest, int] = {}
    levels: list[list[Manifest]] = []
    for manifest in image.manifests:  # children come before their parents
        level = max((depth[child.digest] + 1 for child in manifest.children if child.digest in depth), default=0)
        depth[manifest.descriptor.digest] = level
        levels.extend([] for _ in range(level + 1 - len(levels)))
        levels[level].append(manifest)
    return levels


def _with_source(knowledge: Knowledge, digests: list[Digest], source: Repository, dest: Repository) -> Knowledge:
    """Add a source that is known because a manifest was read from it, unless it is `dest` itself."""
    if source == dest:
        return knowledge
    layers = {digest: knowledge.of(digest) for digest in digests}
    return replace(
        knowledge,
        layers={
            digest: replace(known, sources=tuple(sorted({*known.sources, source})))
            for digest, known in layers.items()
        },
    )


def _without_must_mount(knowledge: Knowledge) -> Knowledge:
    """Allow every layer to be uploaded; the flags in the index stay."""
    layers = {digest: replace(known, must_mount=False) for digest, known in knowledge.layers.items()}
    return replace(knowledge, layers=layers)


def _nothing() -> None:
    """Do nothing: without a fleet nobody waits for a free slot."""
