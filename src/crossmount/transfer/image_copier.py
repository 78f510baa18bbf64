"""Copies images: each is read once and pushed to each destination, its tag last."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import field, replace
from functools import partial

from crossmount import events
from crossmount._dataclass import dataclass
from crossmount._tasks import run_all
from crossmount.errors import CrossmountError, InvalidInputError, RegistryError
from crossmount.oci import Descriptor, Digest, Reference
from crossmount.oci.platforms import Platform
from crossmount.transfer.cache_fetch import CacheFetcher, CacheOrigin
from crossmount.transfer.copy_jobs import CopyJob
from crossmount.transfer.fetch import BlobOrigin, FetchedBlob
from crossmount.transfer.image_pusher import ImagePusher
from crossmount.transfer.origins import Origins
from crossmount.transfer.referrers import ReferrerCopier
from crossmount.transfer.registries import Registries
from crossmount.transfer.remote_image import RemoteImage, read_remote
from crossmount.transfer.report import (
    BlobReport,
    ImageCopy,
    ImageFailure,
    IndexState,
    proven,
    with_origins,
)


@dataclass(slots=True, kw_only=True)
class ImageCopier:
    """Copies many images.

    Attributes:
        registries: the clients of all registries.
        pusher: pushes to the destinations.
        origins: names the registries to fetch blobs from.
        cached: fetches blobs through a cache; None streams them.
        with_referrers: whether referrers are copied too.
        platforms: the platforms to copy, all without any.
        state: returns how the index did so far.
        reason: returns why the index failed, if it did.
        images: the outcome of each image, in the order of the jobs; None while it is in progress.
    """

    registries: Registries
    pusher: ImagePusher
    origins: Origins
    cached: CacheFetcher | None
    with_referrers: bool
    platforms: Sequence[Platform]
    state: Callable[[], IndexState]
    reason: Callable[[], str | None]
    images: list[ImageCopy | ImageFailure | None] = field(default_factory=list)

    async def tasks(self, jobs: Iterable[CopyJob]) -> AsyncIterator[Callable[[], Awaitable[None]]]:
        """Yield a task for each image of each job."""
        for job in jobs:
            if not job.all_tags:
                yield self._task(job)
                continue
            try:
                tags = 0
                async for tag in self.registries.client(job.source).list_tags(job.source.repository):
                    tags += 1
                    yield self._task(job.tagged(tag))
                if not tags:
                    raise RegistryError(f"{job.source}: it has no tags")
            except CrossmountError as error:
                for dest in job.dests:
                    self.images.append(None)
                    self._fail(len(self.images) - 1, job.source, dest, error)

    def _task(self, job: CopyJob) -> Callable[[], Awaitable[None]]:
        first = len(self.images)
        self.images.extend(None for _ in job.dests)
        return partial(self._copy_image, job, first)

    async def _copy_image(self, job: CopyJob, first: int) -> None:
        """Read an image once, and push it to all its destinations."""
        source, targets = job.image, job.targets()
        try:
            remote = await self.read(source, self.platforms)
        except CrossmountError as error:
            for number, dest in enumerate(targets, first):
                self._fail(number, source, dest, error)
            return
        await run_all(
            [partial(self._copy_to, number, remote, source, dest) for number, dest in enumerate(targets, first)]
        )

    async def _copy_to(self, number: int, remote: RemoteImage, source: Reference, dest: Reference) -> None:
        started = self.pusher.clock()
        try:
            digest = remote.root.descriptor.digest
            if remote.platforms and dest.digest == source.digest:
                dest = replace(dest, digest=None if dest.digest is None else digest)
            if dest.digest not in {None, digest}:
                raise InvalidInputError(f"{dest}: the image has the digest {digest}: give that one, or none")
            one = _DestinationCopy(self, source, dest)
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
            index_reason=self.reason(),
            seconds=self.pusher.clock() - started,
            platforms=remote.platforms,
            build_cache=remote.root.is_build_cache,
        )
        self.pusher.observer(events.ImageCopied(source=source, dest=dest))

    def _fail(self, number: int, source: Reference, dest: Reference, error: CrossmountError) -> None:
        error.knowing(reference=dest)
        self.images[number] = ImageFailure(source=source, reference=dest, error=error)
        self.pusher.observer(events.ImageFailed(source=source, dest=dest, error=error))

    async def read(self, source: Reference, platforms: Sequence[Platform] = ()) -> RemoteImage:
        """Read an image of a registry, all its platforms or some."""
        return await read_remote(
            self.registries.client(source), source, requests=self.pusher.requests, platforms=platforms
        )


@dataclass(slots=True)
class _DestinationCopy:
    """The copy of one image to one destination.

    Attributes:
        blobs: the report of each blob, those of referrers too.
    """

    copier: ImageCopier
    source: Reference
    dest: Reference
    blobs: dict[Digest, BlobReport] = field(default_factory=dict)
    referrers: tuple[Digest, ...] = ()

    async def run(self, image: RemoteImage) -> None:
        """Push the image, then its referrers if they are wanted, then the tag."""
        if not self.copier.with_referrers:
            await self._push(image, self.dest)
            return
        registries, source, dest = self.copier.registries, self.source.repository, self.dest.repository
        client = registries.client(dest)
        referrers = ReferrerCopier(
            source=source,
            source_client=registries.client(source),
            dest=dest,
            dest_client=client,
            read=self.copier.read,
            push=self._push,
        )
        push_id = self.copier.pusher.accounting.new_id()
        await self._push(image, Reference(dest, digest=image.root.descriptor.digest), push_id)
        await referrers.copy(image)
        self.referrers = tuple(referrers.copied)
        if self.dest.tag is not None:
            digest = await client.put_manifest(self.dest, image.root, push_id=push_id)
            self.copier.pusher.observer(events.ManifestPushed(digest=digest, tag=self.dest.tag))

    async def _push(self, image: RemoteImage, reference: Reference, push_id: str = "") -> None:
        pusher, source = self.copier.pusher, self.source.repository
        fetched: list[FetchedBlob] = []

        def blob(descriptor: Descriptor) -> FetchedBlob:
            fetched.append(self._blob(descriptor))
            return fetched[-1]

        client = self.copier.registries.client(reference)
        pushed = await pusher.push(image.image(blob), reference, client, source=source, push_id=push_id)
        reports = pushed.reports()
        await pusher.index.record(proven(fetched))
        for report in with_origins(reports, fetched):
            # a blob that a referrer shares with the image is reported once
            self.blobs.setdefault(report.digest, report)

    def _blob(self, descriptor: Descriptor) -> FetchedBlob:
        async def from_registries(descriptor: Descriptor) -> list[BlobOrigin]:
            source, dest = self.source.repository, self.dest.repository
            return [*await self.copier.origins.of(descriptor, source=source, dest=dest)]

        direct = FetchedBlob(descriptor, [from_registries])
        cached = self.copier.cached
        if cached is None:
            return direct

        async def from_cache(descriptor: Descriptor) -> list[BlobOrigin]:
            del descriptor
            return [CacheOrigin(cached, direct)]

        return FetchedBlob(descriptor, [from_cache, from_registries], through=direct)
