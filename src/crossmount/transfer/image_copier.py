"""Copies images: each is read once and pushed to each destination, its tag last. Copy jobs say what to copy."""

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import field, replace
from functools import partial

from crossmount import events
from crossmount._dataclass import dataclass
from crossmount._tasks import run_all
from crossmount.errors import BlobUnavailableError, CrossmountError, InvalidInputError, RegistryError
from crossmount.index.protocol import Knowledge
from crossmount.oci import Descriptor, Digest, Reference, as_reference
from crossmount.oci.platforms import Platform
from crossmount.transfer.cache_fetch import CacheFetcher, CacheOrigin
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

_LAYOUT = re.compile(r"(oci|oci-archive|docker-daemon):(?![0-9]+/)")
"""An image layout in the notation of other tools; `oci:5000/app` names a host `oci`."""


@dataclass(frozen=True, slots=True)
class CopyJob:
    """One image, or all tags of one repository, and one or more destinations."""

    source: Reference
    dests: tuple[Reference, ...]
    all_tags: bool = False

    def __post_init__(self) -> None:
        """Check what can be checked without a request.

        Raises:
            InvalidInputError: there is no destination, or the source and a destination contradict each other.
        """
        if not self.dests:
            raise InvalidInputError(f"{self.source}: give a destination too")
        for reference in (self.source, *self.dests) if self.all_tags else ():
            if reference.target is not None:
                raise InvalidInputError(f"{reference}: with all tags give the repository alone")
        if self.all_tags:
            return
        for dest in self.dests:
            _check_digest(self.source, dest)

    @classmethod
    def of(cls, source: str | Reference, dests: Iterable[str | Reference], *, all_tags: bool = False) -> "CopyJob":
        """Parse references.

        Raises:
            InvalidReferenceError, InvalidDigestError: one breaks the grammar.
            InvalidInputError: they contradict each other, or one is an image layout.
        """
        return cls(_parse(source), tuple(_parse(dest) for dest in dests), all_tags)

    def tagged(self, tag: str) -> "CopyJob":
        """Return the job for one tag of the repository."""
        return CopyJob(self.source.with_tag(tag), tuple(dest.with_tag(tag) for dest in self.dests))

    @property
    def image(self) -> Reference:
        """The image to read: the source, with the tag `latest` if it has neither tag nor digest."""
        return self.source.or_latest()

    def targets(self) -> tuple[Reference, ...]:
        """Return the destinations; one without tag and digest gets the source's tag, or else its digest."""
        image = self.image
        return tuple(
            dest if dest.target else Reference(dest.repository, image.tag, None if image.tag else image.digest)
            for dest in self.dests
        )


def read_list(lines: Iterable[str], *, where: str, all_tags: bool = False) -> list[CopyJob]:
    """Parse lines of `SOURCE DEST [DEST…]`; empty lines are ignored.

    Raises:
        InvalidInputError: a line is not valid; the message names it.
    """
    jobs = []
    for number, line in enumerate(lines, 1):
        words = line.split()
        if words:
            try:
                jobs.append(CopyJob.of(words[0], words[1:], all_tags=all_tags))
            except InvalidInputError as error:
                raise InvalidInputError(f"{where}:{number}: {error}") from error
    return jobs


def _parse(reference: str | Reference) -> Reference:
    if isinstance(reference, str) and _LAYOUT.match(reference):
        raise InvalidInputError(
            f"{reference[:300]}: copy works between registries: use crossmount push for a layout "
            "(docker.io/library/NAME for an image of that name)"
        )
    return as_reference(reference)


def _check_digest(source: Reference, dest: Reference) -> None:
    if dest.digest is not None and source.digest is not None and dest.digest != source.digest:
        raise InvalidInputError(f"{dest}: a copy has the digest of its source, {source.digest}")


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
        known: list[Knowledge] = []

        def blob(descriptor: Descriptor) -> FetchedBlob:
            fetched.append(self._blob(descriptor, known))
            return fetched[-1]

        client = self.copier.registries.client(reference)
        pushed = await pusher.push(
            image.image(blob), reference, client, source=source, push_id=push_id, on_knowledge=known.append
        )
        reports = pushed.reports()
        await pusher.index.record(proven(fetched))
        for report in with_origins(reports, fetched):
            # a blob that a referrer shares with the image is reported once
            self.blobs.setdefault(report.digest, report)

    def _blob(self, descriptor: Descriptor, known: Sequence[Knowledge]) -> FetchedBlob:
        """Return the source of a blob's bytes. `known` is the index's answer at the start of the push."""
        origins, source, dest = self.copier.origins, self.source.repository, self.dest.repository
        asked: list[BlobOrigin] = []

        async def from_source(descriptor: Descriptor) -> list[BlobOrigin]:
            if not any(origins.may_be_elsewhere(each.of(descriptor.digest), source) for each in known):
                asked.extend(origins.source_alone(descriptor, source))
            return asked

        async def from_registries(descriptor: Descriptor) -> list[BlobOrigin]:
            try:
                found = await origins.of(descriptor, source=source, dest=dest)
            except BlobUnavailableError:
                if not asked:
                    raise
                return []  # the source was wrong, and the blob's reader says so
            return [origin for origin in found if not asked or origin.repository != source]

        find = [from_source, from_registries]
        direct = FetchedBlob(descriptor, find)
        cached = self.copier.cached
        if cached is None:
            return direct

        async def from_cache(descriptor: Descriptor) -> list[BlobOrigin]:
            del descriptor
            return [CacheOrigin(cached, direct)]

        return FetchedBlob(descriptor, [from_cache, *find], through=direct)
