"""Many images on their way, and each of them: read once, brought to each destination, its tag last."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial

from crossmount import events
from crossmount.errors import CrossmountError, InvalidInputError, RegistryError
from crossmount.index.protocol import Sighting
from crossmount.oci import Descriptor, Digest, Reference
from crossmount.transfer.cache_fetch import CacheFetcher, CacheOrigin
from crossmount.transfer.concurrency import run_all
from crossmount.transfer.copy_jobs import CopyJob
from crossmount.transfer.fetch import BlobOrigin, FetchedBlob
from crossmount.transfer.image_pusher import ImagePusher
from crossmount.transfer.origins import Origins
from crossmount.transfer.referrers import ReferrerCopier
from crossmount.transfer.registries import Registries
from crossmount.transfer.remote_image import RemoteImage, read_remote
from crossmount.transfer.report import BlobReport, ImageCopy, ImageFailure, IndexState

FROM_CACHE = "cache"


@dataclass(slots=True, kw_only=True)
class ImageCopier:
    """One copy of many images.

    Attributes:
        images: how each ended, in the order in which they were asked for; None while it is on its way.
    """

    registries: Registries
    pushing: ImagePusher
    origins: Origins
    fillings: CacheFetcher | None
    with_referrers: bool
    state: Callable[[], IndexState]
    images: list[ImageCopy | ImageFailure | None] = field(default_factory=list)

    async def work(self, jobs: Iterable[CopyJob]) -> AsyncIterator[Callable[[], Awaitable[None]]]:
        """Yield what is to be done, image by image."""
        for job in jobs:
            if not job.all_tags:
                yield self._begun(job)
                continue
            try:
                tags = 0
                async for tag in self.registries.client(job.source).list_tags(job.source.repository):
                    tags += 1
                    yield self._begun(job.tagged(tag))
                if not tags:
                    raise RegistryError(f"{job.source}: it has no tags")
            except CrossmountError as error:
                for dest in job.dests:
                    self.images.append(None)
                    self._fail(len(self.images) - 1, job.source, dest, error)

    def _begun(self, job: CopyJob) -> Callable[[], Awaitable[None]]:
        first = len(self.images)
        self.images.extend(None for _ in job.dests)
        return partial(self._copy_image, job, first)

    async def _copy_image(self, job: CopyJob, first: int) -> None:
        """Read an image once, and bring it to all its destinations."""
        source, targets = job.image, job.targets()
        try:
            remote = await self.read(source)
        except CrossmountError as error:
            for number, dest in enumerate(targets, first):
                self._fail(number, source, dest, error)
            return
        await run_all(
            [partial(self._copy_to, number, remote, source, dest) for number, dest in enumerate(targets, first)]
        )

    async def _copy_to(self, number: int, remote: RemoteImage, source: Reference, dest: Reference) -> None:
        started = self.pushing.clock()
        try:
            digest = remote.root.descriptor.digest
            if dest.digest not in {None, digest}:
                raise InvalidInputError(f"{dest}: the image has the digest {digest}: give that one, or none")
            one = _OneCopy(self, source, dest)
            await one.run(remote)
        except CrossmountError as error:
            self._fail(number, source, dest, error)
            return
        self.images[number] = ImageCopy(
            source=source,
            reference=dest,
            digest=digest,
            blobs=tuple(one.blobs.values()),
            referrers=one.referrers,
            index=self.state(),
            seconds=self.pushing.clock() - started,
        )
        self.pushing.observer(events.ImageCopied(source=source, dest=dest))

    def _fail(self, number: int, source: Reference, dest: Reference, error: CrossmountError) -> None:
        self.images[number] = ImageFailure(source=source, reference=dest, error=error)
        self.pushing.observer(events.ImageFailed(source=source, dest=dest, error=error))

    async def read(self, source: Reference) -> RemoteImage:
        """Read an image of a registry."""
        return await read_remote(self.registries.client(source), source, requests=self.pushing.requests)


@dataclass(slots=True)
class _OneCopy:
    """One image on its way to one destination.

    Attributes:
        blobs: how each blob came to be there, those of referrers too.
    """

    copying: ImageCopier
    source: Reference
    dest: Reference
    blobs: dict[Digest, BlobReport] = field(default_factory=dict)
    referrers: tuple[Digest, ...] = ()

    async def run(self, image: RemoteImage) -> None:
        """Bring it, and what refers to it if that is wanted; the tag is last."""
        if not self.copying.with_referrers:
            await self._push(image, self.dest)
            return
        registries, source, dest = self.copying.registries, self.source.repository, self.dest.repository
        client = registries.client(dest)
        companions = ReferrerCopier(
            source=source,
            source_client=registries.client(source),
            dest=dest,
            dest_client=client,
            read=self.copying.read,
            push=self._push,
        )
        await self._push(image, Reference(dest, digest=image.root.descriptor.digest))
        await companions.copy(image)
        self.referrers = tuple(companions.copied)
        if self.dest.tag is not None:
            digest = await client.put_manifest(self.dest, image.root)
            self.copying.pushing.observer(events.ManifestPushed(digest=digest, tag=self.dest.tag))

    async def _push(self, image: RemoteImage, reference: Reference) -> None:
        pushing, source = self.copying.pushing, self.source.repository
        fetched: list[FetchedBlob] = []

        def blob(descriptor: Descriptor) -> FetchedBlob:
            fetched.append(self._blob(descriptor))
            return fetched[-1]

        client = self.copying.registries.client(reference)
        reports = (await pushing.push(image.image(blob), reference, client, source=source)).reports()
        await pushing.index.record(_seen(fetched))
        came = {blob.descriptor.digest: blob for blob in fetched}
        for report in reports:
            # a blob that referrers share was reported when it came first
            self.blobs.setdefault(report.digest, _with_origin(report, came[report.digest]))

    def _blob(self, descriptor: Descriptor) -> FetchedBlob:
        async def from_registries(descriptor: Descriptor) -> list[BlobOrigin]:
            source, dest = self.source.repository, self.dest.repository
            return [*await self.copying.origins.of(descriptor, source=source, dest=dest)]

        past = FetchedBlob(descriptor, [from_registries])
        fillings = self.copying.fillings
        if fillings is None:
            return past

        async def from_cache(descriptor: Descriptor) -> list[BlobOrigin]:
            del descriptor
            return [CacheOrigin(fillings, past)]

        return FetchedBlob(descriptor, [from_cache, from_registries], through=past)


def _with_origin(report: BlobReport, blob: FetchedBlob) -> BlobReport:
    """Return the report with where the blob's bytes came from."""
    if report.outcome != "uploaded":
        return report
    givers = [str(repository) for repository in blob.fetched]
    return replace(report, fetched_from=givers[-1] if givers else FROM_CACHE, fetched=sum(blob.fetched.values()))


def _seen(blobs: Iterable[FetchedBlob]) -> list[Sighting]:
    """Return what fetching proved: who gave a whole blob, and no other did, holds it."""
    return [
        Sighting(blob.descriptor.digest, repository, size)
        for blob in blobs
        if len(blob.fetched) == 1
        for repository, size in blob.fetched.items()
        if size == blob.descriptor.size
    ]
